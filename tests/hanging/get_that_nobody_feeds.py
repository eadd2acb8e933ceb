# A consumer waits in get() of a stock queue that nobody feeds any more, and the parent joins it.

from multiprocessing import get_context

fork = get_context("fork")
queue = fork.Queue()
consumer = fork.Process(target=queue.get)
consumer.start()
print("ready", flush=True)
consumer.join()
