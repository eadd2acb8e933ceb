# Pool.imap() of tasks that compute, with results of 300 KB.

from multiprocessing import get_context


def work(number):
    return bytes(sum(range(3000000)) % 7 + 300000)


with get_context("fork").Pool(2) as pool:
    print("ready", flush=True)
    for _ in pool.imap(work, range(1000)):
        pass
