# Two event loops write 2 MB to each other through a socketpair and wait for room only (EPOLLOUT), not for input.

import os
import selectors
import socket

here, there = socket.socketpair()
mine = there if not os.fork() else here
(here if mine is there else there).close()
mine.setblocking(False)
selector = selectors.DefaultSelector()
selector.register(mine, selectors.EVENT_WRITE)
if mine is here:
    print("ready", flush=True)
left = 2000000
while left:
    selector.select()
    left -= mine.send(bytes(min(left, 4096)))
mine.recv(4096)
