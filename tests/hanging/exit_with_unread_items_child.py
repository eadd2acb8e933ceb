# A child cannot exit, for its own queue has unread items; the parent polls its sentinel.

from multiprocessing import connection, get_context

fork = get_context("fork")


def work():
    queue = fork.Queue()
    for _ in range(100):
        queue.put(bytes(2000))


child = fork.Process(target=work)
child.start()
print("ready", flush=True)
connection.wait([child.sentinel])
child.join()
