# The client has not flushed its request: it waits for the answer, the server for the request.

import subprocess
import sys
from subprocess import PIPE

server = "import sys\nfor line in sys.stdin: print('answer', flush=True)"
child = subprocess.Popen([sys.executable, "-c", server], stdin=PIPE, stdout=PIPE, text=True)
print("ready", flush=True)
child.stdin.write("request\n")
child.stdout.readline()
