# Two processes select() for room in the pipes to each other before they read the other's 300 KB.

import os
import select

there, back = os.pipe(), os.pipe()
child = not os.fork()
incoming, outgoing = (there[0], back[1]) if child else (back[0], there[1])
os.set_blocking(outgoing, False)
left = 300000
if not child:
    print("ready", flush=True)
while left:
    select.select([], [outgoing], [])
    left -= os.write(outgoing, bytes(min(left, 65536)))
while left < 300000:
    left += len(os.read(incoming, 65536))
