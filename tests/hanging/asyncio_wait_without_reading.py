# asyncio: await wait() of a child whose output nobody reads; the stream's buffer and the pipe are full.

import asyncio
from asyncio.subprocess import PIPE


async def main():
    child = await asyncio.create_subprocess_exec("seq", "1000000", stdout=PIPE)
    print("ready", flush=True)
    await child.wait()


asyncio.run(main())
