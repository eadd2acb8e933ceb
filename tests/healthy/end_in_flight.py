# The read end of a full pipe travels in a message of a socket that a sleeping process may receive.

import os
import socket
import time

reading, writing = os.pipe()
ours, theirs = socket.socketpair()
if not os.fork():
    os.close(reading)
    os.close(writing)
    time.sleep(30)
    os._exit(0)
theirs.close()
socket.send_fds(ours, [b"x"], [reading])
print("ready", flush=True)
os.write(writing, bytes(200000))
