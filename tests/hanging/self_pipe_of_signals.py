# A signal handler writes into a blocking self-pipe; the main loop is busy elsewhere and never reads it.

import os
import signal

reading, writing = os.pipe()
signal.signal(signal.SIGUSR1, lambda *_: os.write(writing, bytes(1024)))
print("ready", flush=True)
for _ in range(100):
    os.kill(os.getpid(), signal.SIGUSR1)
os.read(reading, 1024)
