# The last stage of a shell pipeline waits for a go-ahead that the first stage gives only after its output.

import os
import tempfile

os.chdir(tempfile.mkdtemp())
os.mkfifo("go")
script = """
exec 3<>go
echo ready
(seq 100000; echo go >&3) | (read go <&3; cat)
"""
os.execvp("sh", ["sh", "-c", script])
