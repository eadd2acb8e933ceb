# A child waits in epoll for room in a full socketpair (EPOLLOUT); the parent joins it before it receives.

import os
import select
import socket

here, there = socket.socketpair()
pid = os.fork()
if not pid:
    here.close()
    there.setblocking(False)
    epoll = select.epoll()
    epoll.register(there, select.EPOLLOUT)
    for _ in range(1000):
        epoll.poll()
        there.send(bytes(4096))
    os._exit(0)
there.close()
print("ready", flush=True)
os.waitpid(pid, 0)
