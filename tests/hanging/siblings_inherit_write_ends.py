# Three readers are fed by pipes; those started later inherited the write ends of the earlier, whose input never ends.

import os


def start():
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(writing)
        while os.read(reading, 4096):
            pass
        os._exit(0)
    os.close(reading)
    return pid, writing


jobs = [start() for _ in range(3)]
print("ready", flush=True)
for pid, writing in jobs:
    os.write(writing, b"data")
    os.close(writing)
    os.waitpid(pid, 0)
