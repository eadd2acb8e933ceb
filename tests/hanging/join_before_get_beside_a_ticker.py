# Join before get beside a thread that wakes ten times a second, as a progress bar or a heartbeat does.

import threading
from multiprocessing import get_context

fork = get_context("fork")
queue = fork.Queue()
child = fork.Process(target=lambda: queue.put(bytes(1000000)))
child.start()


def tick():
    while not threading.Event().wait(0.1):
        pass


threading.Thread(target=tick, daemon=True).start()
print("ready", flush=True)
child.join()
queue.get()
