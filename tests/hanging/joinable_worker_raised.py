# JoinableQueue: the workers end with an exception before task_done(); the parent waits in join().

from multiprocessing import get_context

fork = get_context("fork")


def work(queue):
    while True:
        if queue.get() == "bad":
            raise SystemExit("no such table")
        queue.task_done()


queue = fork.JoinableQueue()
for _ in range(2):
    fork.Process(target=work, args=(queue,), daemon=True).start()
for number in range(20):
    queue.put("bad" if number in (3, 4) else number)
print("ready", flush=True)
queue.join()
