"""A WebSocket client that can do everything wrong: frames are made by hand (RFC 6455), so that a
test says exactly what is on the wire."""

import base64
import hashlib
import os
import socket
import struct

from harness import PATIENCE, Client

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FINAL = 0x80
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Closed(Exception):
    """The other end closed: with a close frame (code, reason), or without one (code is None)."""

    def __init__(self, code=None, reason=""):
        super().__init__(f"closed with {code} {reason!r}" if code else "closed without a close frame")
        self.code, self.reason = code, reason


def mask(payload, key):
    if not payload:
        return b""
    size = len(payload)
    pad = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(size, "big")


def frame(opcode, payload=b"", final=True, reserved=0, masked=True, length=None):
    """A client's frame. `length` is what the header claims, if it is not the truth."""
    size = len(payload) if length is None else length
    head = bytes([(FINAL if final else 0) | reserved << 4 | opcode])
    bit = 0x80 if masked else 0
    if size < 126:
        head += bytes([bit | size])
    elif size < 1 << 16:
        head += struct.pack("!BH", bit | 126, size)
    else:
        head += struct.pack("!BQ", bit | 127, size)
    if not masked:
        return head + payload
    key = os.urandom(4)
    return head + key + mask(payload, key)


def close_payload(code, reason=b""):
    return struct.pack("!H", code) + reason


def upgrade_request(path="/", key=None, **headers):
    """An opening handshake. In a header's name underscores stand for hyphens; None leaves it out."""
    lines = {"Host": "127.0.0.1", "Upgrade": "websocket", "Connection": "Upgrade",
             "Sec-WebSocket-Key": key or base64.b64encode(os.urandom(16)).decode(),
             "Sec-WebSocket-Version": "13"}
    lines.update({name.replace("_", "-"): value for name, value in headers.items()})
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
    return f"GET {path} HTTP/1.1\r\n{head}\r\n".encode()


class Response:
    """An HTTP response's head, and its body if it has one."""

    def __init__(self, client):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = client.receive(1)
            assert byte, f"the connection ended in a response: {head!r}"
            head += byte
        first, *rest = head.decode("latin-1").rstrip().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {name.lower(): value.strip()
                        for name, value in (text.split(":", 1) for text in rest)}
        self.body = client.receive(int(self.headers.get("content-length", 0)))


def get(relay, path, **headers):
    """What a GET without an upgrade is answered."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    with Client(("127.0.0.1", relay.port)) as client:
        client.send(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n".encode())
        return Response(client)


def try_upgrade(relay, path="/", key=None, **headers):
    """What an upgrade is answered."""
    with Client(("127.0.0.1", relay.port)) as client:
        client.send(upgrade_request(path, key, **headers))
        return Response(client)


class WebSocket(Client):
    """A connection that has been upgraded, in TLS if given a context. It answers pings unless told
    not to."""

    def __init__(self, relay, path="/", patience=PATIENCE, answers_pings=True, context=None,
                 preface=b"", **headers):
        super().__init__(("127.0.0.1", relay.port), patience, preface)
        self.answers_pings = answers_pings
        self.pings = 0
        self.close_sent = False
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context:
            self.socket = context.wrap_socket(self.socket, server_hostname="relay.test")
        key = base64.b64encode(os.urandom(16))
        self.send(upgrade_request(path, key.decode(), **headers))
        response = Response(self)
        assert response.status == 101, f"the upgrade was answered {response.status}"
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest()).decode()
        assert response.headers["sec-websocket-accept"] == accept, response.headers

    # ---- sending --------------------------------------------------------------------

    def send_frame(self, opcode, payload=b"", **how):
        self.close_sent = self.close_sent or opcode == CLOSE
        return self.send(frame(opcode, payload, **how))

    def send_text(self, text):
        return self.send_frame(TEXT, text.encode())

    def send_binary(self, data):
        return self.send_frame(BINARY, data)

    def send_close(self, code=1000, reason=b""):
        return self.send_frame(CLOSE, close_payload(code, reason))

    # ---- receiving ------------------------------------------------------------------

    def receive_frame(self):
        """(final, opcode, payload) of the next frame, whatever it is."""
        head = self.receive(2)
        if len(head) < 2:
            raise Closed()
        assert head[0] & 0x70 == 0, f"reserved bits are set: {head!r}"
        assert head[1] & 0x80 == 0, "a server's frame is not masked (RFC 6455, 5.1)"
        size = head[1]
        if size == 126:
            size = struct.unpack("!H", self.receive(2))[0]
        elif size == 127:
            size = struct.unpack("!Q", self.receive(8))[0]
        payload = self.receive(size)
        if len(payload) < size:
            raise Closed()
        final, opcode = bool(head[0] & FINAL), head[0] & 0x0F
        assert opcode < 8 or (final and size < 126), "a control frame is short and whole"
        return final, opcode, payload

    def receive_message(self):
        """(opcode, payload) of the next whole message; fragments are put together."""
        kind, parts = None, []
        while True:
            final, opcode, payload = self.receive_frame()
            if opcode == PING:
                self.pings += 1
                if self.answers_pings:
                    self.send_frame(PONG, payload)
            elif opcode == CLOSE:
                self._answer_close(payload)
                code = struct.unpack("!H", payload[:2])[0] if payload else 1005
                raise Closed(code, payload[2:].decode())
            elif opcode in (TEXT, BINARY, CONTINUATION):
                assert (kind is None) == (opcode != CONTINUATION), "fragments out of order"
                kind = opcode if kind is None else kind
                parts.append(payload)
                if final:
                    return kind, b"".join(parts)

    def _answer_close(self, payload):
        if not self.close_sent:
            try:
                self.send_frame(CLOSE, payload[:2])
            except OSError:
                pass  # a client that closes for an error need not wait for an answer

    def expect_message(self, opcode, payload):
        got = self.receive_message()
        assert got == (opcode, payload), (
            f"expected {(opcode, payload[:60])}, got {(got[0], got[1][:60])}")
        return self

    def expect_text(self, text):
        return self.expect_message(TEXT, text.encode())

    def expect_binary(self, data):
        return self.expect_message(BINARY, data)

    def expect_pong(self, payload=b""):
        got = self.receive_frame()
        assert got == (True, PONG, payload), f"expected a pong, got {got}"
        return self

    def expect_close(self, code=None, reason=None):
        """A close frame, with this code and reason where they are given."""
        try:
            got = self.receive_message()
            raise AssertionError(f"expected a close, got {got[0]} {got[1][:60]!r}")
        except Closed as closed:
            assert closed.code is not None, "the connection ended without a close frame"
            assert code in (None, closed.code), f"expected close {code}, got {closed}"
            assert reason in (None, closed.reason), f"expected reason {reason!r}, got {closed}"
            return closed

    def expect_closed(self):
        """The end, with a close frame or without."""
        try:
            got = self.receive_message()
        except Closed as closed:
            return closed
        raise AssertionError(f"expected the end, got {got[0]} {got[1][:60]!r}")

    def close_politely(self):
        """The closing handshake, and then the end of the connection (RFC 6455, 7.1.1)."""
        self.send_close(1000).expect_close(1000)
        self.close()

    def settle(self):
        """Returns when the relay has dealt with everything that was sent before."""
        return self.send_frame(PING, b"settle").expect_pong(b"settle")
