# Each item is put by a new process.

import time
from multiprocessing import get_context

fork = get_context("fork")
queue = fork.Queue()
print("ready", flush=True)
while True:
    child = fork.Process(target=queue.put, args=(bytes(100000),))
    child.start()
    queue.get()
    child.join()
    time.sleep(0.01)
