"""The real `wormhole` at the relay's WebSocket side. Its Python form speaks TCP only, so a bridge
made with an independent WebSocket library carries what it says as messages, without a change."""

import asyncio
import re
import threading

import websockets

from harness import Relay, behaviour, run
from magic_wormhole import SIZE, send_a_file

LINE = re.compile(rb"please relay \w{64} for side (\w{16})\n")


class Bridge:
    """A TCP port that leads to the relay: by WebSocket for one of the two sides, or for both."""

    def __init__(self, relay, both):
        self.relay, self.both = relay, both
        self.sides = []
        self.port = None
        self.messages = 0
        self.loop = asyncio.new_event_loop()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self.loop.run_until_complete, args=(self.serve(),))

    async def serve(self):
        self.ended = asyncio.Event()
        server = await asyncio.start_server(self.connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self.ready.set()
        async with server:
            await self.ended.wait()

    async def connected(self, reader, writer):
        first = await reader.readline()
        found = LINE.fullmatch(first)
        assert found, f"no transit line: {first!r}"
        side = found.group(1)
        if side not in self.sides:
            self.sides.append(side)
        carry = self.by_websocket if self.both or side == self.sides[0] else self.by_tcp
        try:
            await carry(first, reader, writer)
        except (OSError, websockets.ConnectionClosed):
            pass
        finally:
            writer.close()

    async def by_tcp(self, first, reader, writer):
        relay_reader, relay_writer = await asyncio.open_connection("127.0.0.1", self.relay.port)
        relay_writer.write(first)

        async def copy(source, sink):
            while data := await source.read(1 << 16):
                sink.write(data)
                await sink.drain()
            sink.close()

        await asyncio.gather(copy(reader, relay_writer), copy(relay_reader, writer))

    async def by_websocket(self, first, reader, writer):
        async with websockets.connect(f"ws://127.0.0.1:{self.relay.port}/", max_size=None,
                                      compression=None) as relay:
            async def send():
                await relay.send(first)
                while data := await reader.read(1 << 16):
                    await relay.send(data)
                await relay.close()

            async def receive():
                async for message in relay:
                    assert isinstance(message, bytes), "a text message from the relay"
                    self.messages += 1
                    writer.write(message)
                    await writer.drain()
                writer.close()

            await asyncio.gather(send(), receive())

    def __enter__(self):
        self.thread.start()
        self.ready.wait()
        return self

    def __exit__(self, *unused):
        self.loop.call_soon_threadsafe(self.ended.set)
        self.thread.join()
        self.loop.close()


@behaviour("one over WebSocket, one over TCP", "both over WebSocket")
def wormhole_sends_a_hundred_megabytes(variant):
    with Relay() as relay, Bridge(relay, both=variant.startswith("both")) as bridge:
        send_a_file(bridge)
        assert len(bridge.sides) == 2, bridge.sides
        assert bridge.messages > 0, "no message came by WebSocket"
        relay.wait_for(used=0)
        assert relay.outcomes()["happy"] == 1, relay.outcomes()
        assert relay.status()["total_bytes"] > SIZE


if __name__ == "__main__":
    run()
