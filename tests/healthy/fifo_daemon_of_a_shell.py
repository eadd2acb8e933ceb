# A shell loop that reads commands from a FIFO, as a child that its parent waits for.

import os
import subprocess
import tempfile

os.chdir(tempfile.mkdtemp())
os.mkfifo("commands")
shell = subprocess.Popen(["sh", "-c", "while true; do while read line; do echo $line; done <commands; done"])
print("ready", flush=True)
shell.wait()
