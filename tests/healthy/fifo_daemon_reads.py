# A daemon reads commands from a FIFO that it holds open for writing, too, so that it never ends; the parent waits.

import os
import tempfile

path = os.path.join(tempfile.mkdtemp(), "commands")
os.mkfifo(path)
if not os.fork():
    commands = os.open(path, os.O_RDWR)
    while True:
        os.read(commands, 4096)
print("ready", flush=True)
os.wait()
