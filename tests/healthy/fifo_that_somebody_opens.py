# A full FIFO that had a name until a moment ago, so that another process may have opened it.

import os
import tempfile
import time

path = os.path.join(tempfile.gettempdir(), f"pipecap-{os.getpid()}.fifo")
os.mkfifo(path)
fd = os.open(path, os.O_RDWR)


def unlink_later():
    time.sleep(0.2)
    os.unlink(path)


if not os.fork():
    unlink_later()
    os._exit(0)
print("ready", flush=True)
os.write(fd, bytes(200000))
