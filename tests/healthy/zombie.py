# A child has ended and was not waited for; another waits for a byte that a person will cause.

import os
import sys

reading, writing = os.pipe()
if not os.fork():
    os._exit(0)
if not os.fork():
    os.close(writing)
    os.read(reading, 1)
    os._exit(0)
print("ready", flush=True)
sys.stdin.read()
