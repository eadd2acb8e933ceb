# asyncio: await drain() of a large input before the output is read; cat has filled its output.

import asyncio
from asyncio.subprocess import PIPE


async def main():
    child = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    child.stdin.write(bytes(1000000))
    print("ready", flush=True)
    await child.stdin.drain()
    child.stdin.close()
    await child.stdout.read()


asyncio.run(main())
