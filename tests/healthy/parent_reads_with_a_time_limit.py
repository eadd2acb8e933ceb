# A parent polls a child's connection with a time limit of 5 s, again and again; the child sleeps.

import time
from multiprocessing import get_context

fork = get_context("fork")
reading, writing = fork.Pipe(duplex=False)
fork.Process(target=time.sleep, args=(60,), daemon=True).start()
print("ready", flush=True)
while not reading.poll(5):
    pass
