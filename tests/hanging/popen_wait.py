# Popen.wait() on a child whose standard output is a pipe that nobody reads.

import subprocess
import sys

child = subprocess.Popen([sys.executable, "-c", "print('x' * 200000)"], stdout=subprocess.PIPE)
print("ready", flush=True)
child.wait()
