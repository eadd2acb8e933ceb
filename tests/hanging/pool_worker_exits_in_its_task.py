# Pool.apply() of a function that ends its worker by os._exit(): the task is lost, under the start method spawn.

import os
from multiprocessing import get_context

if __name__ == "__main__":
    pool = get_context("spawn").Pool(1)
    pool.apply(abs, (-1,))
    print("ready", flush=True)
    pool.apply(os._exit, (1,))
