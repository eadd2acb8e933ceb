# A logging QueueListener without records; the worker that logs sleeps between two of them.

import logging.handlers
import time
from multiprocessing import get_context

fork = get_context("fork")
queue = fork.Queue()


def work():
    logger = logging.getLogger()
    logger.addHandler(logging.handlers.QueueHandler(queue))
    while True:
        logger.error("record")
        time.sleep(30)


listener = logging.handlers.QueueListener(queue, logging.NullHandler())
listener.start()
worker = fork.Process(target=work, daemon=True)
worker.start()
print("ready", flush=True)
worker.join()
