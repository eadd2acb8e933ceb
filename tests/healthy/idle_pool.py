# A Pool without tasks; the main thread waits for a threading.Event.

import threading
from multiprocessing import get_context

pool = get_context("fork").Pool(2)
pool.map(abs, range(10))
print("ready", flush=True)
threading.Event().wait()
