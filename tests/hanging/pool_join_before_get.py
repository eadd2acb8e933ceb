# Pool workers have put large results into a queue of their own; the parent joins the pool first.

from multiprocessing import get_context

fork = get_context("fork")
queue = fork.Queue()


def work(number):
    queue.put(bytes(100000))


pool = fork.Pool(2)
pool.map(work, range(4), chunksize=1)
print("ready", flush=True)
pool.close()
pool.join()
for _ in range(4):
    queue.get()
