# A process which has not loaded its program yet may be the one that sets the Event.

import os
from multiprocessing import get_context

fork = get_context("fork")
event = fork.Event()
queue = fork.Queue()


def consume():
    event.wait()
    queue.get()


consumer = fork.Process(target=consume)
consumer.start()
queue.put(bytes(1000000))
if not os.fork():
    os.execvp("sleep", ["sleep", "30"])
print("ready", flush=True)
event.wait()
