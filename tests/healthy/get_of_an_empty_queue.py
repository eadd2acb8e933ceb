# Two readers wait in get() of an empty stock queue, whose writer sleeps; main joins all.

import time
from multiprocessing import get_context

fork = get_context("fork")
queue = fork.Queue()
children = [fork.Process(target=queue.get) for _ in range(2)]
children.append(fork.Process(target=time.sleep, args=(60,)))
for child in children:
    child.start()
print("ready", flush=True)
for child in children:
    child.join()
