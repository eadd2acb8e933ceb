# Workers and main wait for a multiprocessing.Event, which the handler of SIGTERM sets.

import signal
from multiprocessing import get_context

fork = get_context("fork")
stop = fork.Event()
workers = [fork.Process(target=stop.wait) for _ in range(2)]
for worker in workers:
    worker.start()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
print("ready", flush=True)
stop.wait()
for worker in workers:
    worker.join()
