# Workers wait for a Semaphore, one of which each SIGUSR1 releases; main sits in signal.pause().

import signal
from multiprocessing import get_context

fork = get_context("fork")
permits = fork.Semaphore(0)
workers = [fork.Process(target=permits.acquire) for _ in range(2)]
for worker in workers:
    worker.start()
signal.signal(signal.SIGUSR1, lambda *_: permits.release())
print("ready", flush=True)
while True:
    signal.pause()
