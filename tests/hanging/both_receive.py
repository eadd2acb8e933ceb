# A client and a server that both wait for the other's first message, through two pipes.

from multiprocessing import get_context

fork = get_context("fork")
to_parent, to_child = fork.Pipe(duplex=False), fork.Pipe(duplex=False)


def serve():
    request = to_child[0].recv()
    to_parent[1].send(request)


child = fork.Process(target=serve)
child.start()
print("ready", flush=True)
to_parent[0].recv()
