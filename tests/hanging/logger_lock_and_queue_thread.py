# log() puts into a queue with the logger's lock held; the thread that reads the queue waits for the same lock.

import threading
from multiprocessing import get_context

lock, queue = threading.Lock(), get_context("fork").SimpleQueue()


def sink():
    for _ in iter(queue.get, None):
        with lock:
            pass


threading.Thread(target=sink, daemon=True).start()
print("ready", flush=True)
for _ in range(1000):
    with lock:
        queue.put("x" * 40000)
