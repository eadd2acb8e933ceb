# A child sends 4 MB through a multiprocessing Pipe() of two directions; the parent joins it before it receives.

from multiprocessing import get_context

fork = get_context("fork")
here, there = fork.Pipe()
child = fork.Process(target=there.send_bytes, args=(bytes(4000000),))
child.start()
print("ready", flush=True)
child.join()
here.recv_bytes()
