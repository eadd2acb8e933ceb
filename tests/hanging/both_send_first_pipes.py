# Two processes send 200 KB to each other through two pipes, and both send before they receive.

from multiprocessing import get_context

fork = get_context("fork")
to_parent, to_child = fork.Pipe(duplex=False), fork.Pipe(duplex=False)


def talk(incoming, outgoing):
    outgoing[1].send_bytes(bytes(200000))
    incoming[0].recv_bytes()


child = fork.Process(target=talk, args=(to_child, to_parent))
child.start()
print("ready", flush=True)
talk(to_parent, to_child)
child.join()
