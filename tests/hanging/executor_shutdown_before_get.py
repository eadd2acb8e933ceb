# A task of a ProcessPoolExecutor has put a large item; shutdown comes before get.

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

fork = get_context("fork")
queue = fork.Queue()


def work():
    queue.put("X" * 1000000)


with ProcessPoolExecutor(1, mp_context=fork) as executor:
    executor.submit(work).result()
    print("ready", flush=True)
queue.get()
