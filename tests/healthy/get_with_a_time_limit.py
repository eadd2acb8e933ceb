# A consumer gets with a time limit, the producer of which has ended: queue.Empty ends it.

import queue
from multiprocessing import get_context

fork = get_context("fork")
items = fork.Queue()
producer = fork.Process(target=items.put, args=("item",))
producer.start()
print("ready", flush=True)
try:
    while True:
        items.get(timeout=15)
except queue.Empty:
    producer.join()
