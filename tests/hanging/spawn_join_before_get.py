# Join before get under the start method spawn, with three children and a daemon thread beside.

import threading
from multiprocessing import get_context


def work(queue):
    queue.put(bytes(300000))


if __name__ == "__main__":
    spawn = get_context("spawn")
    queue = spawn.Queue()
    children = [spawn.Process(target=work, args=(queue,)) for _ in range(3)]
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    for child in children:
        child.start()
    print("ready", flush=True)
    for child in children:
        child.join()
    queue.get()
