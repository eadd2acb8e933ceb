# The main loop selects on the self-pipe of signal.set_wakeup_fd(), a socketpair whose both ends it holds.

import select
import signal
import socket

reading, writing = socket.socketpair()
writing.setblocking(False)
signal.set_wakeup_fd(writing.fileno())
signal.signal(signal.SIGUSR1, lambda *_: None)
print("ready", flush=True)
while select.select([reading], [], []):
    reading.recv(4096)
