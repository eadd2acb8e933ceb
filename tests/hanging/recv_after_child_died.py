# The child has died before it sent anything; the parent keeps its own copy of the write end and waits in recv().

import os
from multiprocessing import get_context

fork = get_context("fork")
reading, writing = fork.Pipe(duplex=False)
child = fork.Process(target=os._exit, args=(1,))
child.start()
print("ready", flush=True)
reading.recv()
