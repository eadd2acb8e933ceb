# JoinableQueue of pipecap: the workers have been joined; the items put afterwards wait for task_done() for ever.

import pipecap

fork = pipecap.get_context("fork")


def work(queue):
    while queue.get() is not None:
        queue.task_done()
    queue.task_done()


queue = fork.JoinableQueue()
worker = fork.Process(target=work, args=(queue,))
worker.start()
queue.put(None)
worker.join()
for number in range(10):
    queue.put(number)
print("ready", flush=True)
queue.join()
