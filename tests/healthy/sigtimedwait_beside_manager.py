# A Manager and a worker that waits for an item of its queue; main sits in signal.sigtimedwait().

import signal
from multiprocessing import get_context

fork = get_context("fork")
manager = fork.Manager()
queue = manager.Queue()
fork.Process(target=queue.get, daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print("ready", flush=True)
signal.sigtimedwait({signal.SIGTERM}, 3600)
