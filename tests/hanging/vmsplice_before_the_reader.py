# A child gives its memory to a pipe by vmsplice(2); the parent waits for its exit before it reads.

import ctypes
import os

reading, writing = os.pipe()
pid = os.fork()
if not pid:
    memory = ctypes.create_string_buffer(200000)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(memory), 200000)
    while ctypes.CDLL(None).vmsplice(writing, vector, 1, 0) > 0:
        pass
    os._exit(0)
os.close(writing)
print("ready", flush=True)
os.waitpid(pid, 0)
