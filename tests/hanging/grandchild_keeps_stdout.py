# capture_output of a launcher that has exited; the server it left behind keeps the output open and waits for a client.

import subprocess
import sys

server = "import socket; socket.create_server(('127.0.0.1', 0)).accept()"
print("ready", flush=True)
subprocess.run(["sh", "-c", f'"{sys.executable}" -c "{server}" & echo started'], capture_output=True)
