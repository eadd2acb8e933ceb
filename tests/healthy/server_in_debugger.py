# A writer is stopped under ptrace by its parent, a debugger; the reader waits for it.

import ctypes
import os
import time

reading, writing = os.pipe()
pid = os.fork()
if not pid:
    while True:
        os.write(writing, b"x")
        time.sleep(0.01)
if not os.fork():
    os.close(writing)
    while os.read(reading, 4096):
        pass
ptrace = ctypes.CDLL(None).ptrace
assert ptrace(16, pid, None, None) == 0
os.waitpid(pid, 0)
print("ready", flush=True)
input()
