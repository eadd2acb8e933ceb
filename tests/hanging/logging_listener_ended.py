# The process with the log queue's listener has ended; the workers' records fill the pipe and the parent joins them.

import logging.handlers
from multiprocessing import get_context

fork = get_context("fork")
queue = fork.Queue()
listener = fork.Process(target=queue.get)
listener.start()


def work():
    logger = logging.getLogger()
    logger.addHandler(logging.handlers.QueueHandler(queue))
    for number in range(1000):
        logger.error("record %d", number)


workers = [fork.Process(target=work) for _ in range(2)]
for worker in workers:
    worker.start()
print("ready", flush=True)
for process in (listener, *workers):
    process.join()
