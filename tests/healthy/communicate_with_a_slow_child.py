# communicate() of a child that reads all its input and then works for 30 s.

import subprocess
import sys
from subprocess import PIPE

program = "import sys, time; data = sys.stdin.read(); time.sleep(30); print(data)"
child = subprocess.Popen([sys.executable, "-c", program], stdin=PIPE, stdout=PIPE, stderr=PIPE)
print("ready", flush=True)
child.communicate(bytes(1000000))
