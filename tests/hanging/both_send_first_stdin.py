# The parent writes 1 MB to a filter and wants to read its output only then; both pipes are full.

import subprocess

child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
print("ready", flush=True)
child.stdin.write(bytes(1000000))
child.stdin.close()
child.stdout.read()
