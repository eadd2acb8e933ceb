# Join before get under forkserver: the child is a child of the server, and the parent polls its sentinel.

from multiprocessing import get_context


def work(queue):
    queue.put(bytes(800000))


if __name__ == "__main__":
    forkserver = get_context("forkserver")
    queue = forkserver.Queue()
    child = forkserver.Process(target=work, args=(queue,))
    child.start()
    print("ready", flush=True)
    child.join()
    queue.get()
