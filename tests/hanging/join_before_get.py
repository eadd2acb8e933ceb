# The textbook hang: the parent joins the child that has put a large item, and gets it only afterwards.

from multiprocessing import get_context

fork = get_context("fork")
queue = fork.Queue()
child = fork.Process(target=lambda: queue.put("X" * 1000000))
child.start()
print("ready", flush=True)
child.join()
queue.get()
