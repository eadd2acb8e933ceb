# A supervisor waits with wait() for any child; its children write into a pipe that only the supervisor could read.

import os

reading, writing = os.pipe()
if not os.fork():
    for _ in range(2):
        if not os.fork():
            os.write(writing, bytes(200000))
            os._exit(0)
    os.wait()
    os.wait()
    os._exit(0)
print("ready", flush=True)
os.wait()
os.read(reading, 200000)
