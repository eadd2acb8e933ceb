# A child polls an empty pipe every 200 ms, the parent joins it.

from multiprocessing import get_context

fork = get_context("fork")
reading, writing = fork.Pipe(duplex=False)


def watch():
    while not reading.poll(0.2):
        pass


child = fork.Process(target=watch)
child.start()
print("ready", flush=True)
child.join()
