# An asyncio program waits for the output of cat, whose input it holds open.

import asyncio


async def main():
    child = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    print("ready", flush=True)
    await child.stdout.read()


asyncio.run(main())
