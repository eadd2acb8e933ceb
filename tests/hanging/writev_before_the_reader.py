# A child writes a header and a body by writev(2); the parent waits for its exit before it reads.

import os

reading, writing = os.pipe()
pid = os.fork()
if not pid:
    os.close(reading)
    os.writev(writing, [bytes(100), bytes(300000)])
    os._exit(0)
os.close(writing)
print("ready", flush=True)
os.waitpid(pid, 0)
