# A callback of a Pool, run by its only result thread, waits for another result of the Pool.

from multiprocessing import get_context


def work():
    return bytes(200000)


pool = get_context("fork").Pool(1)
pool.apply_async(work, callback=lambda result: pool.apply(work))
print("ready", flush=True)
pool.apply(work)
