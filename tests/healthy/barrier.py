# Two of three processes wait at a Barrier, the third still computes; main joins them.

import time
from multiprocessing import get_context

fork = get_context("fork")
barrier = fork.Barrier(3)


def work(seconds):
    time.sleep(seconds)
    barrier.wait()


workers = [fork.Process(target=work, args=(seconds,)) for seconds in (0, 0, 30)]
for worker in workers:
    worker.start()
print("ready", flush=True)
for worker in workers:
    worker.join()
