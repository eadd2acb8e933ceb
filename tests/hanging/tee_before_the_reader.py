# A child copies one pipe to another by tee(2); the parent waits for its exit before it reads the second one.

import ctypes
import os

source, target = os.pipe(), os.pipe()
os.write(source[1], bytes(60000))
pid = os.fork()
if not pid:
    for _ in range(3):
        assert ctypes.CDLL(None).tee(source[0], target[1], 60000, 0) > 0
    os._exit(0)
os.close(target[1])
print("ready", flush=True)
os.waitpid(pid, 0)
