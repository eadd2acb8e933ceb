# Three workers share two licences, a Semaphore: the third waits until one of the sleeping ones releases its own.

import time
from multiprocessing import get_context

fork = get_context("fork")
licences = fork.Semaphore(2)


def work():
    with licences:
        time.sleep(30)


workers = [fork.Process(target=work) for _ in range(3)]
for worker in workers:
    worker.start()
print("ready", flush=True)
for worker in workers:
    worker.join()
