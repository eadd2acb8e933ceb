# A pager on a pseudo-terminal waits for a key; seq cannot write on meanwhile.

import os
import pty
import subprocess
import sys

ours, theirs = pty.openpty()
seq = subprocess.Popen(["seq", "1000000"], stdout=subprocess.PIPE)
pager = f"import os; key = os.open({os.ttyname(theirs)!r}, os.O_RDWR); os.read(0, 4096); os.read(key, 1)"
subprocess.Popen([sys.executable, "-c", pager], stdin=seq.stdout)
seq.stdout.close()
print("ready", flush=True)
seq.wait()
