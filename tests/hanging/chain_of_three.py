# Three processes in a row pass data on; the last sends its results to the first, which is still sending.

from itertools import pairwise
from multiprocessing import get_context

fork = get_context("fork")
queues = [fork.SimpleQueue() for _ in range(3)]


def copy(source, target):
    while True:
        target.put(source.get())


for source, target in pairwise(queues):
    fork.Process(target=copy, args=(source, target), daemon=True).start()
print("ready", flush=True)
for _ in range(1000):
    queues[0].put(bytes(1000))
for _ in range(1000):
    queues[2].get()
