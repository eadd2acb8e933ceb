# A C extension writes to a pipe with the GIL held, and the reader is a thread of the same process.

import ctypes
import os
import threading

reading, writing = os.pipe()
write = ctypes.PyDLL(None).write


def read():
    while os.read(reading, 65536):
        pass


reader = threading.Thread(target=read)
reader.start()
print("ready", flush=True)
write(writing, bytes(500000), 500000)
os.close(writing)
reader.join()
