# A threading.Timer kills a child that does not end in time: main joins it, the child waits for room in a full pipe.

import threading
from multiprocessing import get_context

fork = get_context("fork")
reading, writing = fork.Pipe(duplex=False)
child = fork.Process(target=writing.send_bytes, args=(bytes(200000),))
child.start()
timer = threading.Timer(30, child.kill)
timer.daemon = True
timer.start()
print("ready", flush=True)
child.join()
