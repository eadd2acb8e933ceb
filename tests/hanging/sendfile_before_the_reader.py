# A child sends a file to a pipe by sendfile(2); the parent waits for its exit before it reads.

import os
import tempfile

file = tempfile.TemporaryFile()
file.truncate(500000)
reading, writing = os.pipe()
pid = os.fork()
if not pid:
    sent = 0
    while sent < 500000:
        sent += os.sendfile(writing, file.fileno(), sent, 500000 - sent)
    os._exit(0)
os.close(writing)
print("ready", flush=True)
os.waitpid(pid, 0)
