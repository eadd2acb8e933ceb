# A child filters what it reads to the end of its input, but has not closed its own copy of the write end.

import os

reading, writing = os.pipe()
pid = os.fork()
if not pid:
    while os.read(reading, 4096):
        pass
    os._exit(0)
os.close(reading)
print("ready", flush=True)
os.write(writing, b"data")
os.close(writing)
os.waitpid(pid, 0)
