# A training loop: a loader process fills a bounded queue with batches of 600 KB, each step takes 300 ms.

import time
from multiprocessing import get_context

import numpy as np

fork = get_context("fork")
batches = fork.Queue(4)


def load():
    while True:
        batches.put(np.zeros((8, 3, 80, 80), np.float32))


fork.Process(target=load, daemon=True).start()
batches.get()
print("ready", flush=True)
while True:
    batch = batches.get()
    time.sleep(0.3)
