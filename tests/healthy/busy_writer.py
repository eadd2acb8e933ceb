# A writer of 100 KB items and a reader that takes each at once.

from multiprocessing import get_context

fork = get_context("fork")
queue = fork.SimpleQueue()


def produce():
    while True:
        queue.put(bytes(100000))


fork.Process(target=produce).start()
queue.get()
print("ready", flush=True)
while True:
    queue.get()
