# The child has died before it sent anything; the parent of a pipecap Pipe waits in recv() with the write end open.

import os

import pipecap

fork = pipecap.get_context("fork")
reading, writing = fork.Pipe(duplex=False)
child = fork.Process(target=os._exit, args=(1,))
child.start()
child.join()
print("ready", flush=True)
reading.recv()
