# The reader of a full queue suspended itself as Ctrl-Z does; fg lets it go on.

import os
import signal
from multiprocessing import get_context

fork = get_context("fork")
queue = fork.SimpleQueue()


def consume():
    os.setpgid(0, 0)
    os.kill(os.getpid(), signal.SIGTSTP)
    while True:
        queue.get()


reader = fork.Process(target=consume)
reader.start()
print("ready", flush=True)
while True:
    queue.put(bytes(1000))
