# The child has died before it answered; the parent holds both ends of the socketpair and waits in recv().

import os
from multiprocessing import get_context

fork = get_context("fork")
here, there = fork.Pipe()
child = fork.Process(target=os._exit, args=(1,))
child.start()
print("ready", flush=True)
here.send("request")
here.recv()
