# A parent waits for its child, which writes to a full pipe; an interval timer's handler reads it twice a minute.

import os
import signal

reading, writing = os.pipe()
pid = os.fork()
if not pid:
    os.write(writing, bytes(200000))
    os._exit(0)
signal.signal(signal.SIGALRM, lambda *_: os.read(reading, 65536))
signal.setitimer(signal.ITIMER_REAL, 30, 30)
print("ready", flush=True)
os.waitpid(pid, 0)
