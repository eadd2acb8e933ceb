# A Pool of pipecap without tasks; the main thread waits for a threading.Event.

import threading

import pipecap

pool = pipecap.get_context("fork").Pool(2)
pool.map(abs, range(10))
print("ready", flush=True)
threading.Event().wait()
