# Two processes wait in recv() for each other's first message, through a socketpair.

from multiprocessing import get_context

fork = get_context("fork")
here, there = fork.Pipe()


def serve():
    here.close()
    there.send(there.recv())


child = fork.Process(target=serve)
child.start()
there.close()
print("ready", flush=True)
here.recv()
