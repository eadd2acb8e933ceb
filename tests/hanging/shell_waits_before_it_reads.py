# A shell starts a command in the background that writes to a FIFO, waits for it and wants to read the FIFO only then.

import os
import tempfile

os.chdir(tempfile.mkdtemp())
os.mkfifo("output")
script = """
seq 100000 >output &
exec 3<output
echo ready
wait
cat <&3
"""
os.execvp("sh", ["sh", "-c", script])
