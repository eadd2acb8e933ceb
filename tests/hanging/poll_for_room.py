# A child with a non-blocking pipe polls for room (POLLOUT), without a time limit; the parent joins it before it reads.

import os
import select

reading, writing = os.pipe()
pid = os.fork()
if not pid:
    os.set_blocking(writing, False)
    poll = select.poll()
    poll.register(writing, select.POLLOUT)
    for _ in range(100):
        poll.poll()
        os.write(writing, bytes(4096))
    os._exit(0)
print("ready", flush=True)
os.waitpid(pid, 0)
