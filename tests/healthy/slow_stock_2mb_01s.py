# A reader takes one item of 2 MB every 0.1 s from a queue of multiprocessing; its writer puts as fast as it can.

import time
from multiprocessing import get_context

fork = get_context("fork")
queue = fork.Queue(4)


def produce():
    while True:
        queue.put(bytes(2000000))


fork.Process(target=produce, daemon=True).start()
queue.get()
print("ready", flush=True)
while True:
    time.sleep(0.1)
    queue.get()
