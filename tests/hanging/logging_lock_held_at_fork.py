# A handler's lock is held by a thread at the fork; the child's first log record waits for it, and Process.join for it.

import threading
from multiprocessing import get_context

fork = get_context("fork")
lock, held, forked = threading.RLock(), threading.Event(), threading.Event()


def emit():
    with lock:
        held.set()
        forked.wait()


def work():
    with lock:
        pass


threading.Thread(target=emit).start()
held.wait()
child = fork.Process(target=work)
child.start()
forked.set()
print("ready", flush=True)
child.join()
