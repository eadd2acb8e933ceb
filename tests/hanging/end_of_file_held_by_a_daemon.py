# A launcher has left a daemon behind that waits for the parent's command and keeps the launcher's output open.

import os
import subprocess

reading, writing = os.pipe()
program = "exec 3<&0; (cat <&3 >/dev/null; echo over) & echo started"
launcher = subprocess.Popen(["sh", "-c", program], stdin=reading, stdout=subprocess.PIPE)
os.close(reading)
launcher.wait()
print("ready", flush=True)
launcher.stdout.read()
os.close(writing)
