# Two processes wait for a multiprocessing.Lock whose owner works (sleeps) with it.

import time
from multiprocessing import get_context

fork = get_context("fork")
lock = fork.Lock()


def work():
    with lock:
        time.sleep(20)


children = [fork.Process(target=work) for _ in range(3)]
for child in children:
    child.start()
print("ready", flush=True)
for child in children:
    child.join()
