"""An independent RFC 6455 conformance suite (kosoku from PyPI, which runs the Autobahn test cases)
judges the relay's frames and the relay's closing.

The suite expects a server that sends back what it gets, and a relay is none. So each of its
connections goes to one end of a pair of its own, and an echo (python3-websockets) is the other."""

import asyncio
import itertools
import json
import os

import websockets
from packages import HERE, python_program

from harness import Relay, behaviour, run

SUITE_TIME = 120
GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}
GOOD_CLOSE = {"OK", "INFORMATIONAL"}
SECTIONS = {
    "framing": "1.*", "pings and pongs": "2.*", "reserved bits": "3.*", "opcodes": "4.*",
    "fragmentation": "5.*", "text": "6.*", "closing": "7.*", "large messages": "9.*",
    "automatic fragmentation": "10.*"}


class Stage:
    """Where the suite connects to: gives each connection its pair."""

    def __init__(self, relay):
        self.relay = relay
        self.numbers = itertools.count()
        self.tasks = set()

    async def echo(self, peer):
        try:
            async for message in peer:
                await peer.send(message)
        except websockets.ConnectionClosed:
            pass

    async def carry(self, reader, writer):
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        except OSError:
            writer.close()

    async def connect(self, reader, writer):
        number = next(self.numbers)
        relay = f"127.0.0.1:{self.relay.port}"
        try:
            async with websockets.connect(f"ws://{relay}/connection/echo/suite/case-{number}",
                                          max_size=None, compression=None) as peer:
                echo = asyncio.create_task(self.echo(peer))
                request = await reader.readuntil(b"\r\n\r\n")
                _, rest = request.split(b" HTTP/", maxsplit=1)
                relay_reader, relay_writer = await asyncio.open_connection(*relay.split(":"))
                relay_writer.write(b"GET /connection/suite/echo/case-%d HTTP/" % number + rest)
                await asyncio.gather(self.carry(reader, relay_writer), self.carry(relay_reader, writer))
                relay_writer.close()
                await echo
        except (OSError, websockets.WebSocketException) as error:
            print(f"#   case {number}: {error}")
        finally:
            writer.close()

    async def accept(self, reader, writer):
        task = asyncio.create_task(self.connect(reader, writer))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


async def judge(relay, cases):
    stage = Stage(relay)
    server = await asyncio.start_server(stage.accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    suite = await asyncio.create_subprocess_exec(
        python_program("python"), os.path.join(HERE, "conformance.py"), f"ws://127.0.0.1:{port}", cases,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE)
    try:
        output, _ = await asyncio.wait_for(suite.communicate(), SUITE_TIME)
    finally:
        if suite.returncode is None:
            suite.kill()
            await suite.wait()
        server.close()
        for task in stage.tasks:
            task.cancel()
    return json.loads(output)


@behaviour(*SECTIONS)
def the_relay_conforms_in_what_the_suite_says_of(section):
    python_program("python")
    with Relay() as relay:
        results = asyncio.run(judge(relay, SECTIONS[section]))
        assert results, "the suite has run nothing"
        # Text that is not UTF-8 is closed by its reader, and the relay closes the writer in turn: with
        # its own code, where the suite expects the reader's 1007.
        closes = GOOD_CLOSE | ({"WRONG CODE"} if section == "text" else set())
        failed = [f"{name}: {how}, close {close}" for name, how, close, _ in results
                  if how not in GOOD or close not in closes]
        assert not failed, f"{len(failed)} of {len(results)}: {failed}"


if __name__ == "__main__":
    run()
