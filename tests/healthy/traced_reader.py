# The reader of a full queue is traced by a debugger, which waits at its prompt.

import ctypes
import os
import sys
from multiprocessing import get_context

fork = get_context("fork")
queue = fork.SimpleQueue()


def consume():
    while True:
        queue.get()


def produce():
    while True:
        queue.put(bytes(1000))


reader, writer = fork.Process(target=consume), fork.Process(target=produce)
reader.start()
writer.start()
assert ctypes.CDLL(None).ptrace(16, reader.pid, None, None) == 0
os.waitpid(reader.pid, 0)
print("ready", flush=True)
sys.stdin.read()
