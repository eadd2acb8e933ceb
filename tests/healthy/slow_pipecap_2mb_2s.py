# A reader takes one item of 2 MB every 2 s from a queue of pipecap; its writer puts as fast as it can.

import time

import pipecap

fork = pipecap.get_context("fork")
queue = fork.Queue(4)


def produce():
    while True:
        queue.put(bytes(2000000))


fork.Process(target=produce, daemon=True).start()
queue.get()
print("ready", flush=True)
while True:
    time.sleep(2)
    queue.get()
