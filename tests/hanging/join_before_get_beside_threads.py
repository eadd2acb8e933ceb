# Join before get in a service with a timer, an asyncio loop in a thread and a ThreadPoolExecutor beside it.

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

fork = get_context("fork")
queue = fork.Queue()
child = fork.Process(target=lambda: queue.put(bytes(1000000)))
child.start()
executor = ThreadPoolExecutor(4)
list(executor.map(abs, range(8)))
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
timer = threading.Timer(3600, print)
timer.daemon = True
timer.start()
print("ready", flush=True)
child.join()
queue.get()
