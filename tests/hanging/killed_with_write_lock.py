# A writer was killed while it held the queue's write lock; the next feeder waits for it.

import os
import signal
from multiprocessing import get_context

fork = get_context("fork")
queue = fork.Queue()


def die():
    queue._wlock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


dying = fork.Process(target=die)
dying.start()
dying.join()
fork.Process(target=lambda: queue.put("item")).start()
print("ready", flush=True)
queue.get()
