# Two processes open each other's FIFO for reading first, as a chat of two shells does.

import os
import subprocess
import tempfile

os.chdir(tempfile.mkdtemp())
os.mkfifo("one")
os.mkfifo("other")
programs = ["exec 3<one 4>other; echo hello >&4", "exec 3<other 4>one; echo hello >&4"]
shells = [subprocess.Popen(["sh", "-c", program]) for program in programs]
print("ready", flush=True)
for shell in shells:
    shell.wait()
