# sleep | cat in a shell: cat waits for the output of a process that sleeps.

import subprocess

shell = subprocess.Popen(["sh", "-c", "sleep 1000 | cat"])
print("ready", flush=True)
shell.wait()
