# Join before get with ten thousand small items instead of a large one.

from multiprocessing import get_context

fork = get_context("fork")
queue = fork.Queue()
child = fork.Process(target=lambda: [queue.put(number) for number in range(10000)])
child.start()
print("ready", flush=True)
child.join()
for number in range(10000):
    assert queue.get() == number
