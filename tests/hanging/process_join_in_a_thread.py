# A thread joins the child and the main thread joins that thread; the child waits for room for its results.

import threading
from multiprocessing import get_context

fork = get_context("fork")
reading, writing = fork.Pipe(duplex=False)
child = fork.Process(target=writing.send_bytes, args=(bytes(100000),))
child.start()
joiner = threading.Thread(target=child.join)
joiner.start()
print("ready", flush=True)
joiner.join()
reading.recv_bytes()
