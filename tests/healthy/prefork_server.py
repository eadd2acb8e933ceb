# A pre-fork server: three children in accept(), the master in wait().

import os
import socket

server = socket.create_server(("127.0.0.1", 0))
for _ in range(3):
    if not os.fork():
        while True:
            server.accept()[0].close()
print("ready", flush=True)
os.wait()
