# A thread holds a threading.Lock while the main thread forks; the child waits for the lock for ever, the parent for it.

import os
import threading

lock, held, forked = threading.Lock(), threading.Event(), threading.Event()


def hold():
    with lock:
        held.set()
        forked.wait()


threading.Thread(target=hold).start()
held.wait()
pid = os.fork()
if not pid:
    with lock:
        os._exit(0)
forked.set()
print("ready", flush=True)
os.waitpid(pid, 0)
