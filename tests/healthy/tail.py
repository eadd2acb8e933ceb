# The parent reads the output of tail -f, and nothing is added to the file.

import subprocess

tail = subprocess.Popen(["tail", "-n", "0", "-f", "/etc/passwd"], stdout=subprocess.PIPE)
print("ready", flush=True)
tail.stdout.read()
