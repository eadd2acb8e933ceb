# A JSON-RPC client writes requests and reads answers; the server logs to its standard error, which nobody reads.

import subprocess
import sys
from subprocess import PIPE

server = """
import sys
for line in sys.stdin:
    sys.stderr.write("w" * 1000 + chr(10))
    print('{"jsonrpc": "2.0", "result": 1}', flush=True)
"""
child = subprocess.Popen([sys.executable, "-c", server], stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True)
print("ready", flush=True)
while True:
    child.stdin.write('{"jsonrpc": "2.0", "method": "ping"}\n')
    child.stdin.flush()
    child.stdout.readline()
