# A ThreadPoolExecutor without tasks; main sits in signal.pause().

import signal
from concurrent.futures import ThreadPoolExecutor

executor = ThreadPoolExecutor(4)
list(executor.map(abs, range(100)))
print("ready", flush=True)
signal.pause()
