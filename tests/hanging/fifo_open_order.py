# Two processes open two FIFOs in opposite orders: each waits for the other in open().

import os
import tempfile

request = os.path.join(tempfile.mkdtemp(), "request")
reply = os.path.join(tempfile.mkdtemp(), "reply")
os.mkfifo(request)
os.mkfifo(reply)
if not os.fork():
    with open(reply, "w"), open(request):
        os._exit(0)
print("ready", flush=True)
with open(request, "w"), open(reply):
    os.wait()
