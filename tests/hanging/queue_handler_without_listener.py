# A child logs through a QueueHandler, no listener reads, and the parent joins the child.

import logging
import logging.handlers
from multiprocessing import get_context

fork = get_context("fork")
queue = fork.Queue()


def work():
    logging.getLogger().addHandler(logging.handlers.QueueHandler(queue))
    for number in range(2000):
        logging.warning("record %d", number)


child = fork.Process(target=work)
child.start()
print("ready", flush=True)
child.join()
