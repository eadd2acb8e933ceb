# A parent joins with a time limit and then gets an item, again and again.

from multiprocessing import get_context

fork = get_context("fork")
queue = fork.SimpleQueue()


def produce():
    while True:
        queue.put(bytes(5000))


child = fork.Process(target=produce)
child.start()
print("ready", flush=True)
while True:
    child.join(0.1)
    queue.get()
