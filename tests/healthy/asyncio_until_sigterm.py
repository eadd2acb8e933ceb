# An asyncio server without clients that ends on SIGTERM; its self-pipe is a socketpair.

import asyncio
import signal


async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print("ready", flush=True)
    await stop.wait()


asyncio.run(main())
