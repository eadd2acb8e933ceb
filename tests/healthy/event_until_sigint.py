# The workers are done; main waits for a multiprocessing.Event until Ctrl-C, and reads the summary only then.

from multiprocessing import get_context

fork = get_context("fork")
stop, results = fork.Event(), fork.SimpleQueue()
worker = fork.Process(target=results.put, args=("summary",))
worker.start()
worker.join()
print("ready", flush=True)
try:
    stop.wait()
except KeyboardInterrupt:
    print(results.get())
