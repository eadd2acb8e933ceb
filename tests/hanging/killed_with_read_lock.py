# A reader was killed while it held the queue's read lock; the other readers wait for it.

import os
import signal
from multiprocessing import get_context

fork = get_context("fork")
queue = fork.Queue()


def die():
    queue._rlock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


for _ in range(10):
    queue.put("item")
dying = fork.Process(target=die)
dying.start()
dying.join()
consumers = [fork.Process(target=queue.get) for _ in range(2)]
for consumer in consumers:
    consumer.start()
print("ready", flush=True)
for consumer in consumers:
    consumer.join()
