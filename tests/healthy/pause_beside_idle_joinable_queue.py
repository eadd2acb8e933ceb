# Workers wait for tasks of a JoinableQueue; main sits in signal.pause(), and SIGUSR1 puts a task.

import signal
from multiprocessing import get_context

fork = get_context("fork")
queue = fork.JoinableQueue()


def work():
    while True:
        queue.get()
        queue.task_done()


for _ in range(3):
    fork.Process(target=work, daemon=True).start()
signal.signal(signal.SIGUSR1, lambda *_: queue.put("task"))
queue.put("first task")
queue.join()
print("ready", flush=True)
while True:
    signal.pause()
