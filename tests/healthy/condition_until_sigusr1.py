# Two workers wait on a multiprocessing.Condition, and main in sigwait() for the signal to notify them.

import signal
from multiprocessing import get_context

fork = get_context("fork")
condition = fork.Condition()


def work():
    with condition:
        condition.wait()


signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
workers = [fork.Process(target=work) for _ in range(2)]
for worker in workers:
    worker.start()
print("ready", flush=True)
signal.sigwait({signal.SIGUSR1})
with condition:
    condition.notify_all()
for worker in workers:
    worker.join()
