"""websockets, as any agent calls it, without a credential.

with_websockets.py wss://HOST:PORT/PATH
"""

import asyncio
import ssl
import sys

import websockets


async def main():
    async with websockets.connect(sys.argv[1], ssl=ssl.create_default_context(), subprotocols=["cup"]) as socket:
        assert socket.subprotocol == "cup", socket.subprotocol
        for message in ("a cup ☕", b"\x00\xff" * 500_000, "", "x" * 126):
            await socket.send(message)
            assert await asyncio.wait_for(socket.recv(), 30) == message
        # In fragments, with a ping between them.
        async def parts():
            yield "a "
            await (await socket.ping())
            yield "cup"
        await socket.send(parts())
        assert await asyncio.wait_for(socket.recv(), 30) == "a cup"
        await socket.close(4000, "enough")
        assert socket.close_code == 4000, socket.close_code
    print("closed with 4000")


asyncio.run(main())
