# A pre-fork server whose master selects on a self-pipe with a time limit, and whose workers select on the listener.

import os
import select
import signal
import socket

server = socket.create_server(("127.0.0.1", 0))
reading, writing = os.pipe2(os.O_NONBLOCK)
signal.signal(signal.SIGCHLD, lambda *_: os.write(writing, b"c"))
for _ in range(2):
    if not os.fork():
        while True:
            select.select([server, reading], [], [], 1)
print("ready", flush=True)
while True:
    select.select([reading], [], [], 1)
