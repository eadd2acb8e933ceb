# Eight children each put a result of 50 KB into one SimpleQueue; the parent joins all before it gets the first.

from multiprocessing import get_context

fork = get_context("fork")
queue = fork.SimpleQueue()
children = [fork.Process(target=queue.put, args=(bytes(50000),)) for _ in range(8)]
for child in children:
    child.start()
print("ready", flush=True)
for child in children:
    child.join()
results = [queue.get() for _ in children]
