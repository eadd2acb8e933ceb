# A Pool without tasks, under the start method spawn; main sits in signal.pause().

import signal
from multiprocessing import get_context

if __name__ == "__main__":
    pool = get_context("spawn").Pool(3)
    pool.map(abs, range(10))
    print("ready", flush=True)
    signal.pause()
