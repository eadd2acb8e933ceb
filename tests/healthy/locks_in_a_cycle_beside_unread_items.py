# Two children wait for two locks in a cycle; an unread item elsewhere has no part in it.

import time
from multiprocessing import get_context

fork = get_context("fork")
queue, one, other = fork.SimpleQueue(), fork.Lock(), fork.Lock()
queue.put("a result")


def take(first, second):
    with first:
        time.sleep(0.3)
        with second:
            pass


children = [fork.Process(target=take, args=locks) for locks in ((one, other), (other, one))]
for child in children:
    child.start()
print("ready", flush=True)
for child in children:
    child.join()
