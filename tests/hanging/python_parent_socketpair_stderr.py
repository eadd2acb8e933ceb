# A child's standard error is a socketpair; the parent waits for its exit and never receives from it.

import socket
import subprocess
import sys

here, there = socket.socketpair()
program = "import sys\nwhile True: sys.stderr.write('w' * 10000)"
child = subprocess.Popen([sys.executable, "-c", program], stderr=there)
there.close()
print("ready", flush=True)
child.wait()
