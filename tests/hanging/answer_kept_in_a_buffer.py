# The server does not flush its answer, since its output is a pipe; the client waits for the line.

import subprocess
import sys
from subprocess import PIPE

server = "import sys\nfor line in sys.stdin: print('answer')"
child = subprocess.Popen([sys.executable, "-E", "-c", server], stdin=PIPE, stdout=PIPE, text=True)
print("ready", flush=True)
child.stdin.write("request\n")
child.stdin.flush()
child.stdout.readline()
