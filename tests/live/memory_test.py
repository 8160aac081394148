"""Clients that make the relay hold as much for them as it will end no others, and delay none: what a
pair is guaranteed depends on no other client."""

import contextlib
import os
import struct

import offset_capnp as capnp
from harness import (OWN_USER, Client, behaviour, exchange, make_pair, narrow, resident, run,
                     wait_until, without_memory)
from offset_client import Connection
from offset_relay import OffsetRelay, Task, message_of
from web_protocols import connection, connection_pair, new_code, p2p_pair, receiver, sender
from websocket_client import BINARY, WebSocket, frame

MEBIBYTE = 1 << 20
LONG = 3_000_000  # bytes of a message of an honest pair
LIMIT = 640 * MEBIBYTE  # of the forwarder, whichever clients hoard
BULK = os.urandom(4 * MEBIBYTE)
MESSAGE = capnp.write_channel_message(b"", capnp.write_ka_message(BULK))  # in one frame


def fill_all(wanted):
    """Has each send bytes, in turns, so that of each goes what the relay takes; the rest is never
    sent."""
    left = {client: memoryview(data) for client, data in wanted.items()}
    for _ in range(5):
        for client, rest in left.items():
            client.socket.settimeout(0.005)
            with contextlib.suppress(TimeoutError, ConnectionResetError, BrokenPipeError):
                while rest:
                    rest = rest[client.socket.send(rest[:1 << 18]):]
            left[client] = rest
        left = {client: rest for client, rest in left.items() if rest}


# ---- clients that hoard -------------------------------------------------------------------


def waiting_clients(relay):
    """Each says as much as is kept for a peer that never comes."""
    clients = [connection(relay, f"a{i}", f"b{i}", "doc") for i in range(1100)]
    fill_all(dict.fromkeys(clients, frame(BINARY, bytes(4000)) * 70))
    return clients


def tunnels_whose_frames_nobody_reads(relay):
    clients = []
    for _ in range(70):
        first, second = relay.tunnel(lively=False)
        narrow(second)
        clients += [first, second]
        first.send_frame(first.channel.sending.seal(MESSAGE))
    fill_all({client: b"".join(client.output) for client in clients[::2]})
    return clients


def tunnels_whose_frames_never_become_whole(relay):
    clients = [end for _ in range(40) for end in relay.tunnel(lively=False)]
    fill_all(dict.fromkeys(clients, struct.pack(">Q", 60 * MEBIBYTE) + BULK))
    return clients


HOARDERS = {function.__name__.replace("_", " "): function for function in (
    waiting_clients, tunnels_whose_frames_nobody_reads, tunnels_whose_frames_never_become_whole)}


# ---- clients that must not notice -----------------------------------------------------------


def pass_both_ways(first, second, send, expect, make=os.urandom):
    """make: a message of a size."""
    for one, other in ((first, second), (second, first)):
        message = make(LONG)
        sending = Task(send, one, message)
        expect(other, message)
        sending.result()


def expect_frame(node, message):
    assert node.receive() == message, "another message"


def pass_what_was_said_early(relay):
    """A sender that waits may say something before its receiver is there."""
    code, message = new_code(), os.urandom(100_000)
    first = sender(relay, code)
    sending = Task(first.send_binary, message)
    second = receiver(relay, code)
    second.expect_binary(message)
    sending.result()
    first.close()
    second.close()


def pass_all(tunnel, web_pair, pair):
    pass_both_ways(*tunnel, Connection.send, expect_frame,
                   make=lambda size: message_of(1_000_000) * (size // 1_000_000))
    pass_both_ways(*web_pair, WebSocket.send_binary, WebSocket.expect_binary)
    pass_both_ways(*pair, Client.send, Client.expect)


@behaviour(*HOARDERS)
def however_much_other_clients_hold_pairs_go_on_and_new_pairs_are_made(who):
    with OffsetRelay() as relay:
        honest = relay.tunnel(), p2p_pair(relay), make_pair(relay)
        hoarders = HOARDERS[who](relay)
        pass_all(*honest)
        pass_what_was_said_early(relay)
        pass_all(relay.tunnel(), connection_pair(relay), make_pair(relay))
        assert resident(relay.forwarder()) < LIMIT, f"the relay holds {resident(relay.forwarder()) >> 20} MiB"
        pass_all(*honest)
        for client in hoarders:
            client.close()


@behaviour()
def a_connection_that_ends_for_lack_of_memory_is_not_logged_as_a_breach_of_its_protocol():
    with OffsetRelay(options=OWN_USER) as relay:
        first, second = relay.tunnel()
        bystanders = make_pair(relay)
        with without_memory(relay.forwarder()):
            first.send(message_of(1_000_000))
            wait_until(lambda: "closed a connection" in relay.log(), "its end")
            exchange(*bystanders)
        assert "closed a connection (offset): there is no memory" in relay.log(), relay.log()
        assert "breaks the protocol" not in relay.log(), relay.log()
        first.close()
        second.close()


if __name__ == "__main__":
    run()
