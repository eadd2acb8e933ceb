# The parent reads its child's output to the end; a grandchild has the write end, too, and waits for the parent.

import os

output, commands = os.pipe(), os.pipe()
pid = os.fork()
if not pid:
    if not os.fork():
        os.close(commands[1])
        os.read(commands[0], 1)
        os._exit(0)
    os.write(output[1], b"started\n")
    os._exit(0)
os.close(output[1])
print("ready", flush=True)
while os.read(output[0], 4096):
    pass
os.write(commands[1], b"x")
