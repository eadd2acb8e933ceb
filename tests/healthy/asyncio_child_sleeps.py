# asyncio: await communicate() of a child that sleeps.

import asyncio
from asyncio.subprocess import PIPE


async def main():
    child = await asyncio.create_subprocess_exec("sleep", "1000", stdin=PIPE, stdout=PIPE, stderr=PIPE)
    print("ready", flush=True)
    await child.communicate(b"input")


asyncio.run(main())
