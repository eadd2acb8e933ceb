# The reader of a full queue was stopped with SIGSTOP; SIGCONT lets it go on.

import os
import signal
from multiprocessing import get_context

fork = get_context("fork")
queue = fork.SimpleQueue()


def consume():
    while True:
        queue.get()


reader = fork.Process(target=consume)
reader.start()
os.kill(reader.pid, signal.SIGSTOP)
print("ready", flush=True)
while True:
    queue.put(bytes(1000))
