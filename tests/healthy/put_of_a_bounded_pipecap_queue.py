# put() of a bounded pipecap queue waits for a reader that takes 1.5 s an item.

import time

import pipecap

fork = pipecap.get_context("fork")
queue = fork.Queue(2)


def consume():
    while True:
        queue.get()
        time.sleep(1.5)


fork.Process(target=consume, daemon=True).start()
print("ready", flush=True)
while True:
    queue.put(bytes(100))
