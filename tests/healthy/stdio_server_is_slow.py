# A JSON-RPC client waits for an answer, which the server's database takes 30 s for.

import subprocess
import sys
from subprocess import PIPE

server = "import sys, time\nfor line in sys.stdin: time.sleep(30); print('{\"result\": 1}', flush=True)"
child = subprocess.Popen([sys.executable, "-c", server], stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True)
child.stdin.write("{}\n")
child.stdin.flush()
print("ready", flush=True)
child.stdout.readline()
