"""Clients of p2p-copy, @localfirst/relay and transit over WebSocket, and pairs of them that met."""

import json
import os

import msgpack
from harness import line, new_side, new_token
from websocket_client import BINARY, WebSocket


def new_code():
    return os.urandom(32).hex()


def hello(code, role, **more):
    return json.dumps({"type": "hello", "code_hash_hex": code, "role": role, **more})


def sender(relay, code, path="/", **how):
    return WebSocket(relay, path, **how).send_text(hello(code, "sender"))


def receiver(relay, code, path="/", **how):
    return WebSocket(relay, path, **how).send_text(hello(code, "receiver"))


def p2p_pair(relay, **how):
    code = new_code()
    first, second = sender(relay, code, **how), receiver(relay, code, **how)
    first.expect_text('{"type":"ready"}')
    return first, second


def introduced(relay, peer, *documents, **how):
    client = WebSocket(relay, f"/introduction/{peer}", **how)
    return join(client, *documents) if documents else client


def join(client, *documents):
    return client.send_binary(msgpack.packb({"type": "Join", "documentIds": list(documents)}))


def leave(client, *documents):
    return client.send_binary(msgpack.packb({"type": "Leave", "documentIds": list(documents)}))


def introduction(client):
    opcode, payload = client.receive_message()
    assert opcode == BINARY, "an introduction is a binary message"
    message = msgpack.unpackb(payload)
    assert list(message) == ["type", "peerId", "documentIds"], message
    assert message["type"] == "Introduction", message
    return message["peerId"], message["documentIds"]


def expect_introduction(client, peer, *documents):
    got_peer, got_documents = introduction(client)
    assert (got_peer, sorted(got_documents)) == (peer, sorted(documents)), (got_peer, got_documents)


def connection(relay, local, remote, document, **how):
    return WebSocket(relay, f"/connection/{local}/{remote}/{document}", **how)


def connection_pair(relay, **how):
    """Two clients that have met: a message of each has reached the other."""
    document = os.urandom(8).hex()
    first = connection(relay, "alice", "bob", document, **how)
    second = connection(relay, "bob", "alice", document, **how)
    exchange(first, second)
    return first, second


def transit(relay, token, side=None, **how):
    return WebSocket(relay, **how).send_binary(line(token, side))


def transit_pair(relay, **how):
    token = new_token()
    first = transit(relay, token, new_side(), **how)
    second = transit(relay, token, new_side(), **how)
    first.expect_binary(b"ok\n")
    second.expect_binary(b"ok\n")
    return first, second


PAIRS = {"p2p-copy": p2p_pair, "localfirst": connection_pair, "transit": transit_pair}


def exchange(first, second, size=1000):
    """A message each way, compared."""
    for one, other in ((first, second), (second, first)):
        data = os.urandom(size)
        one.send_binary(data)
        other.expect_binary(data)


def receive_bytes(client, size):
    """So many bytes of binary messages, whatever their boundaries."""
    data = b""
    while len(data) < size:
        opcode, payload = client.receive_message()
        assert opcode == BINARY
        data += payload
    return data
