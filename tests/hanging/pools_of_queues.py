# The parent puts all tasks before it gets a result; the workers' results fill the other pipe.

from multiprocessing import get_context

fork = get_context("fork")
tasks, results = fork.SimpleQueue(), fork.SimpleQueue()


def work():
    for task in iter(tasks.get, None):
        results.put(task * 4)


workers = [fork.Process(target=work) for _ in range(3)]
for worker in workers:
    worker.start()
print("ready", flush=True)
for _ in range(2000):
    tasks.put(bytes(100))
for _ in range(2000):
    results.get()
for _ in workers:
    tasks.put(None)
for worker in workers:
    worker.join()
