# A Pool's only worker was killed while it waited for a task, and the next tasks are larger than the task pipe.

import os
import signal
from multiprocessing import get_context

pool = get_context("fork").Pool(1)
pid = pool.apply(os.getpid)
while "pipe_read" not in open(f"/proc/{pid}/wchan").read():
    pass
os.kill(pid, signal.SIGKILL)
print("ready", flush=True)
pool.map(len, [bytes(200000)] * 3, chunksize=1)
