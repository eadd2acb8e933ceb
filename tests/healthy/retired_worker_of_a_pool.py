# A Pool with maxtasksperchild: workers are replaced all the time, while results come in.

import time
from multiprocessing import get_context

with get_context("fork").Pool(2, maxtasksperchild=1) as pool:
    print("ready", flush=True)
    for _ in pool.imap_unordered(time.sleep, [0.2] * 300):
        pass
