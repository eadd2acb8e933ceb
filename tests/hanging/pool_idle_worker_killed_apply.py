# A Pool's only worker was killed while it waited for a task, with the task queue's lock; its successor cannot take it.

import os
import signal
from multiprocessing import get_context

pool = get_context("fork").Pool(1)
pid = pool.apply(os.getpid)
while "pipe_read" not in open(f"/proc/{pid}/wchan").read():
    pass
os.kill(pid, signal.SIGKILL)
print("ready", flush=True)
pool.apply(abs, (-1,))
