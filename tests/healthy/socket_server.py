# A child waits in accept(), the parent joins it.

import socket
from multiprocessing import get_context

fork = get_context("fork")
server = socket.create_server(("127.0.0.1", 0))
child = fork.Process(target=server.accept)
child.start()
print("ready", flush=True)
child.join()
