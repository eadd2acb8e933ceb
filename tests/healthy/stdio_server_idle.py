# A JSON-RPC server waits for the next request on its standard input; its client waits for a person.

import subprocess
import sys
from subprocess import PIPE

server = "import sys\nfor line in sys.stdin: print('{\"result\": 1}', flush=True)"
child = subprocess.Popen([sys.executable, "-c", server], stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True)
child.stdin.write("{}\n")
child.stdin.flush()
child.stdout.readline()
print("ready", flush=True)
sys.stdin.read()
