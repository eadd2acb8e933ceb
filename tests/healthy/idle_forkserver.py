# A forkserver and a resource tracker outlive the processes started with them.

import threading
import time
from multiprocessing import get_context

child = get_context("forkserver").Process(target=time.sleep, args=(0,))
child.start()
child.join()
child = get_context("spawn").Process(target=time.sleep, args=(0,))
child.start()
child.join()
print("ready", flush=True)
threading.Event().wait()
