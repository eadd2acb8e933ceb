# Two processes send 8 MB to each other through one socketpair, and both send first.

from multiprocessing import get_context

fork = get_context("fork")
here, there = fork.Pipe()


def talk(end):
    end.send_bytes(bytes(8000000))
    end.recv_bytes()


child = fork.Process(target=talk, args=(there,))
child.start()
print("ready", flush=True)
talk(here)
child.join()
