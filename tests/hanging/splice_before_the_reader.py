# A child copies a file to a pipe by splice(2); the parent waits for its exit before it reads.

import os
import tempfile

file = tempfile.TemporaryFile()
file.truncate(200000)
reading, writing = os.pipe()
pid = os.fork()
if not pid:
    left = 200000
    while left:
        left -= os.splice(file.fileno(), writing, left)
    os._exit(0)
os.close(writing)
print("ready", flush=True)
os.waitpid(pid, 0)
