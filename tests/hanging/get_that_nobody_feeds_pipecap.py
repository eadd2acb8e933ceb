# A consumer waits in get() of a pipecap queue that nobody feeds any more: it was sent one None too few.

import pipecap

fork = pipecap.get_context("fork")
queue = fork.Queue()


def work():
    for _ in iter(queue.get, None):
        pass


consumers = [fork.Process(target=work) for _ in range(2)]
for consumer in consumers:
    consumer.start()
queue.put(None)
print("ready", flush=True)
for consumer in consumers:
    consumer.join()
