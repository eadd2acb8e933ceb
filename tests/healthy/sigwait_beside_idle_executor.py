# A ProcessPoolExecutor without tasks; main sits in signal.sigwait().

import signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

executor = ProcessPoolExecutor(2, mp_context=get_context("fork"))
list(executor.map(abs, range(10)))
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print("ready", flush=True)
signal.sigwait({signal.SIGTERM})
