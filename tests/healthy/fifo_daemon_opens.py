# A daemon waits in open() of its command FIFO until a client opens it.

import os
import tempfile

path = os.path.join(tempfile.mkdtemp(), "commands")
os.mkfifo(path)
print("ready", flush=True)
while True:
    with open(path) as commands:
        commands.read()
