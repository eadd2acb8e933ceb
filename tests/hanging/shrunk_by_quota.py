# Join before get of an item that fits a usual pipe, but not the single page a user over quota gets.

import fcntl
from multiprocessing import get_context

fork = get_context("fork")
queue = fork.Queue()
fcntl.fcntl(queue._writer.fileno(), fcntl.F_SETPIPE_SZ, 4096)
child = fork.Process(target=lambda: queue.put("X" * 20000))
child.start()
print("ready", flush=True)
child.join()
queue.get()
