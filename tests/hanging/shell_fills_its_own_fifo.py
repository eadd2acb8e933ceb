# A shell writes into a FIFO that it holds open itself, and wants to read it only when the writer has ended.

import os
import tempfile

os.chdir(tempfile.mkdtemp())
os.mkfifo("buffer")
script = """
exec 3<>buffer
echo ready
seq 100000 >&3
head -n 100000 <&3
"""
os.execvp("sh", ["sh", "-c", script])
