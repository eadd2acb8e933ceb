# The consumer of a bounded queue takes ten items and then joins the producer.

from multiprocessing import get_context

fork = get_context("fork")
queue = fork.Queue(200)


def produce():
    while True:
        queue.put(bytes(1000))


child = fork.Process(target=produce)
child.start()
for _ in range(10):
    queue.get()
print("ready", flush=True)
child.join()
