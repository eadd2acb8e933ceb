# A reader waits in get() of an empty pipecap queue, whose writer sleeps.

import time

import pipecap

fork = pipecap.get_context("fork")
queue = fork.Queue()


def produce():
    while True:
        time.sleep(30)
        queue.put("item")


fork.Process(target=produce, daemon=True).start()
print("ready", flush=True)
queue.get()
