# A producer waits in put() of a bounded pipecap queue; the parent joins it and would get the items only then.

import pipecap

fork = pipecap.get_context("fork")
queue = fork.Queue(2)


def produce():
    for number in range(10):
        queue.put(number)


producer = fork.Process(target=produce)
producer.start()
print("ready", flush=True)
producer.join()
items = [queue.get() for _ in range(10)]
