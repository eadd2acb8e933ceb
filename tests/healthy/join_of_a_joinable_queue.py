# JoinableQueue.join() waits for a worker that takes 5 s a task, of 30 KB each: the task pipe is full.

import time
from multiprocessing import get_context

fork = get_context("fork")
queue = fork.JoinableQueue()


def work():
    while True:
        queue.get()
        time.sleep(5)
        queue.task_done()


fork.Process(target=work, daemon=True).start()
for _ in range(10):
    queue.put(bytes(30000))
print("ready", flush=True)
queue.join()
