# A reader that sleeps 200 ms before each read of a whole pipe.

import os
import time

reading, writing = os.pipe()
if not os.fork():
    os.close(reading)
    while True:
        os.write(writing, bytes(65536))
print("ready", flush=True)
while True:
    time.sleep(0.2)
    os.read(reading, 65536)
