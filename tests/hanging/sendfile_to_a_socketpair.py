# A child sends a file to a socketpair by sendfile(2); the parent waits for its exit before it reads.

import os
import socket
import tempfile

file = tempfile.TemporaryFile()
file.truncate(4000000)
here, there = socket.socketpair()
pid = os.fork()
if not pid:
    here.close()
    there.sendfile(file)
    os._exit(0)
there.close()
print("ready", flush=True)
os.waitpid(pid, 0)
