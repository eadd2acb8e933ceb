# join() under a time limit by SIGALRM, as pytest-timeout has it: it ends by itself, and the items are got then.

import signal
from multiprocessing import get_context


class Late(Exception):
    pass


def over(*_):
    raise Late


fork = get_context("fork")
queue = fork.Queue()
child = fork.Process(target=queue.put, args=(bytes(300000),))
child.start()
signal.signal(signal.SIGALRM, over)
signal.alarm(30)
print("ready", flush=True)
try:
    child.join()
except Late:
    queue.get()
