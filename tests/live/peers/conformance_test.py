"""The Autobahn suite judges the relay's frames, its text and its closing: kosoku from PyPI runs that
suite's own cases. (PyPI's autobahntestsuite is these cases with a runner for Python 2, which Debian has no
more.)

The suite expects a server that sends back what it gets, and a relay is none. So each of its
connections goes to one end of a pair of its own, and an echo (python3-websockets) is the other."""

import asyncio
import collections
import itertools
import json
import os
import ssl

import websockets
from packages import HERE, Site, python_program

from harness import behaviour, run
from web_protocols import hello, new_code
from websocket_client import TEXT, frame

SUITE_TIME = 300
# The suite's sections, and how many cases they have; 12 and 13 are about compression, of which the relay
# has none.
SECTIONS = {
    1: 16,  # framing
    2: 11,  # pings and pongs
    3: 7,  # reserved bits
    4: 10,  # opcodes
    5: 20,  # fragmentation
    6: 145,  # text
    7: 37,  # closing
    9: 54,  # large messages
    10: 1,  # automatic fragmentation
}
GOOD = {"OK", "INFORMATIONAL"}
# Where a good message and a breach of the protocol come at once, the pair ends before the other end has
# sent that message back.
WITHOUT_ECHO = {"3.2", "3.3", "3.4", "4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5", "5.15"}
HEAD_END = b"\r\n\r\n"


async def echo(peer):
    try:
        async for message in peer:
            await peer.send(message)
    except websockets.ConnectionClosed:
        pass


async def carry(reader, writer):
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()
    except OSError:
        writer.close()


class Stage:
    """Where the suite connects to: gives each connection its pair."""

    def __init__(self, site):
        self.site = site
        self.numbers = itertools.count()
        self.tasks = set()
        self.context = None
        if site.certificate:
            self.context = ssl.create_default_context(cafile=site.certificate.authority)

    def join(self, path):
        """The echo, as a client of the relay."""
        return websockets.connect(self.site.url + path, max_size=None, compression=None, ssl=self.context)

    async def connect(self, path, request):
        """The suite's request, with another path, as the relay gets it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.site.relay.port, ssl=self.context)
        _, rest = request.split(b" HTTP/", maxsplit=1)
        writer.write(f"GET {path} HTTP/".encode() + rest)
        return reader, writer

    async def meet(self, request):
        """Both ends of a pair: the echo, and the suite's, with what has been read of that."""
        raise NotImplementedError

    async def serve(self, reader, writer):
        number = next(self.numbers)
        try:
            peer, (relay_reader, relay_writer), head = await self.meet(await reader.readuntil(HEAD_END))
            writer.write(head)
            echoing = asyncio.create_task(echo(peer))
            await asyncio.gather(carry(reader, relay_writer), carry(relay_reader, writer))
            relay_writer.close()
            await echoing
            await peer.close()
        except (OSError, websockets.WebSocketException) as error:
            print(f"#   case {number}: {error}")
        finally:
            writer.close()

    async def accept(self, reader, writer):
        task = asyncio.create_task(self.serve(reader, writer))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


class LocalfirstStage(Stage):
    async def meet(self, request):
        document = new_code()
        peer = await self.join(f"/connection/echo/suite/{document}")
        return peer, await self.connect(f"/connection/suite/echo/{document}", request), b""


class P2pCopyStage(Stage):
    """The suite knows nothing of the hello: that is said for it before its upgrade is answered."""

    async def meet(self, request):
        code = new_code()
        peer = await self.join("/")
        await peer.send(hello(code, "sender"))
        streams = await self.connect("/", request)
        head = await streams[0].readuntil(HEAD_END)
        streams[1].write(frame(TEXT, hello(code, "receiver").encode()))
        await peer.recv()  # it is ready
        return peer, streams, head


STAGES = {"localfirst": LocalfirstStage, "p2p-copy": P2pCopyStage}


async def judge(stage):
    server = await asyncio.start_server(stage.accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    suite = await asyncio.create_subprocess_exec(
        python_program("python"), os.path.join(HERE, "conformance.py"), f"ws://127.0.0.1:{port}",
        *(f"{section}.*" for section in SECTIONS),
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


def is_good(case, how, close):
    return close in GOOD and (how in GOOD or (how == "NON-STRICT" and case in WITHOUT_ECHO))


@behaviour(*(f"{protocol}, {scheme}" for protocol in STAGES for scheme in ("ws", "wss")))
def the_relay_conforms_in_every_case(variant):
    protocol, scheme = variant.split(", ")
    python_program("python")
    with Site(scheme) as site:
        results = asyncio.run(judge(STAGES[protocol](site)))
    counts = collections.Counter(int(case.split(".")[0]) for case, *_ in results)
    assert counts == SECTIONS, f"the suite has run other cases: {counts}"
    failed = [f"{case}: {how}, close {close}" for case, how, close, _ in results
              if not is_good(case, how, close)]
    assert not failed, f"{len(failed)} of {len(results)}: {failed}"


if __name__ == "__main__":
    run()
