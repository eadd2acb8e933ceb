# JoinableQueue.join() of pipecap waits for a worker that takes 5 s a task.

import time

import pipecap

fork = pipecap.get_context("fork")
queue = fork.JoinableQueue()


def work():
    while True:
        queue.get()
        time.sleep(5)
        queue.task_done()


fork.Process(target=work, daemon=True).start()
for _ in range(10):
    queue.put("task")
print("ready", flush=True)
queue.join()
