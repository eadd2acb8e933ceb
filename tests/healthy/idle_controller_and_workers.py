# Test workers as xdist's: each waits for a command on stdin; threads of the controller read answers, main a queue.

import queue
import subprocess
import sys
import threading
from subprocess import PIPE

program = "import sys, time\nfor line in sys.stdin: time.sleep(30); print('passed', flush=True)"
workers = [subprocess.Popen([sys.executable, "-c", program], stdin=PIPE, stdout=PIPE) for _ in range(2)]
answers = queue.Queue()


def read(worker):
    for line in worker.stdout:
        answers.put(line)


for worker in workers:
    threading.Thread(target=read, args=(worker,), daemon=True).start()
workers[0].stdin.write(b"test\n")
workers[0].stdin.flush()
print("ready", flush=True)
answers.get()
