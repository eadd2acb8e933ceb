# Join before get with a pipecap queue and an item that is larger than any pipe may be.

import pipecap

fork = pipecap.get_context("fork")
queue = fork.Queue()
child = fork.Process(target=queue.put, args=(bytes(64000000),))
child.start()
print("ready", flush=True)
child.join()
queue.get()
