# A Pool's only worker was killed while it waited for a task, holding the queue's lock; terminate() waits for that.

import os
import signal
import sys
from multiprocessing import get_context

pool = get_context("fork").Pool(1)
pid = pool.apply(os.getpid)
while "pipe_read" not in open(f"/proc/{pid}/wchan").read():
    pass
os.kill(pid, signal.SIGKILL)
while [worker.pid for worker in pool._pool] in ([], [pid]):
    pass
print("ready", flush=True)
pool.terminate()
sys.exit("not reached")
