# The consumer of a full queue waits at a gate, an Event that main sets on SIGUSR1; main sits in signal.pause().

import signal
from multiprocessing import get_context

fork = get_context("fork")
gate, queue = fork.Event(), fork.SimpleQueue()


def consume():
    gate.wait()
    queue.get()


signal.signal(signal.SIGUSR1, lambda *_: gate.set())
children = [fork.Process(target=consume), fork.Process(target=queue.put, args=(bytes(1000000),))]
for child in children:
    child.start()
print("ready", flush=True)
signal.pause()
for child in children:
    child.join()
