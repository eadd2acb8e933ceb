# Pool.map: a worker is killed in the middle of its task, as by the OOM killer; map waits for the result for ever.

import os
import signal
from multiprocessing import get_context


def work(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


pool = get_context("fork").Pool(2)
print("ready", flush=True)
pool.map(work, range(8), chunksize=1)
