# A Pool without tasks, and a queue with an item that is kept for later.

import threading
from multiprocessing import get_context

fork = get_context("fork")
queue = fork.SimpleQueue()
queue.put("for later")
pool = fork.Pool(2)
pool.map(abs, range(10))
print("ready", flush=True)
threading.Event().wait()
