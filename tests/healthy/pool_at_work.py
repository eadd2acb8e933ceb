# Pool.map() of tasks that sleep; main waits for the results.

import time
from multiprocessing import get_context

print("ready", flush=True)
with get_context("fork").Pool(2) as pool:
    pool.map(time.sleep, [3] * 20, chunksize=1)
