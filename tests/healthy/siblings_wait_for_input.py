# Three readers that closed the inherited write ends wait for data, which a person causes.

import os
import sys

writings = []
for _ in range(3):
    reading, writing = os.pipe()
    if not os.fork():
        for other in (writing, *writings):
            os.close(other)
        while os.read(reading, 4096):
            pass
        os._exit(0)
    os.close(reading)
    writings.append(writing)
print("ready", flush=True)
sys.stdin.read()
