# The same with a FIFO, as make 4.4 has it, and shells that take a token and give it back.

import os
import tempfile

os.chdir(tempfile.mkdtemp())
os.mkfifo("tokens")
script = """
exec 3<>tokens
echo token >&3
job() { read token <&3; sleep 30; echo token >&3; }
job & job &
echo ready
wait
"""
os.execvp("sh", ["sh", "-c", script])
