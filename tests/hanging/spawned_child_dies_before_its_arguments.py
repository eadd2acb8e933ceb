# spawn: the child dies while it unpickles its arguments; the parent still writes them and holds the read end itself.

import os
from multiprocessing import get_context


class First:
    def __reduce__(self):
        return os._exit, (3,)


def work(first, data):
    pass


if __name__ == "__main__":
    child = get_context("spawn").Process(target=work, args=(First(), bytes(200000)))
    print("ready", flush=True)
    child.start()
