# A reader that takes one item of a page every 50 ms from a pipe that is always full.

import time
from multiprocessing import get_context

fork = get_context("fork")
queue = fork.SimpleQueue()


def produce():
    while True:
        queue.put(bytes(4000))


fork.Process(target=produce).start()
print("ready", flush=True)
while True:
    queue.get()
    time.sleep(0.05)
