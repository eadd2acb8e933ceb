# The first thread of the reader has ended, another one reads slowly.

import ctypes
import os
import threading
import time

reading, writing = os.pipe()
if not os.fork():
    os.close(reading)
    while True:
        os.write(writing, bytes(4096))


def read():
    while True:
        os.read(reading, 4096)
        time.sleep(0.05)


threading.Thread(target=read).start()
print("ready", flush=True)
ctypes.CDLL(None).pthread_exit(None)
