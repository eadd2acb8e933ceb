# Two commands started with close_fds=False and inheritable pipes: the second holds the input of the first open.

import os
import subprocess

inputs = [os.pipe() for _ in range(2)]
for _, writing in inputs:
    os.set_inheritable(writing, True)
commands = [subprocess.Popen(["sort", "-o", os.devnull], stdin=reading, close_fds=False) for reading, _ in inputs]
for reading, _ in inputs:
    os.close(reading)
print("ready", flush=True)
for command, (_, writing) in zip(commands, inputs, strict=True):
    os.write(writing, b"data")
    os.close(writing)
    command.wait()
