# A ProcessPoolExecutor without tasks; the main thread waits for a threading.Event.

import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

executor = ProcessPoolExecutor(2, mp_context=get_context("fork"))
list(executor.map(abs, range(10)))
print("ready", flush=True)
threading.Event().wait()
