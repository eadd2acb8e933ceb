# A filter that is fed by one thread and read by another, slowly.

import subprocess
import threading
import time

child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def feed():
    while True:
        child.stdin.write(bytes(10000))


threading.Thread(target=feed, daemon=True).start()
print("ready", flush=True)
while child.stdout.read(100000):
    time.sleep(0.5)
