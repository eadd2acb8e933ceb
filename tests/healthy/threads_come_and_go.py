# Each item is read by a new thread.

import threading
import time
from multiprocessing import get_context

fork = get_context("fork")
queue = fork.SimpleQueue()


def produce():
    while True:
        queue.put(bytes(1000))


fork.Process(target=produce).start()
print("ready", flush=True)
while True:
    thread = threading.Thread(target=queue.get)
    thread.start()
    thread.join()
    time.sleep(0.001)
