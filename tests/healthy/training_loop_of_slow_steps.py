# A training loop with three loaders and steps of 2 s; the loaders wait most of the time.

import time
from multiprocessing import get_context

fork = get_context("fork")
indices, batches = fork.Queue(), fork.Queue()


def load():
    while True:
        batches.put(bytes(indices.get() * 100000))


for _ in range(3):
    fork.Process(target=load, daemon=True).start()
for _ in range(6):
    indices.put(8)
print("ready", flush=True)
while True:
    batches.get()
    time.sleep(2)
    indices.put(8)
