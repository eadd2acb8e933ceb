# The main process has put items that nobody gets; its exit waits for the feeder thread.

from multiprocessing import get_context

queue = get_context("fork").Queue()
for _ in range(100):
    queue.put(bytes(2000))
print("ready", flush=True)
