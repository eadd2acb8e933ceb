# The parent polls a full pipe's write end for the end of its readers, which a signal can cause.

import os
import select

reading, writing = os.pipe()
if not os.fork():
    os.write(writing, bytes(200000))
    os._exit(0)
waiting = select.poll()
waiting.register(writing, select.POLLIN)
print("ready", flush=True)
waiting.poll()
