"""An Offset node as a relay sees it, written from the protocol's description, apart from the relay's
code and on other libraries: frames, version, secure channel, keepalive, relay messages.

A Channel is the secure channel alone, without a socket and without chance. A Connection is one of
a node's connections to the relay. Each step of it can be taken by itself, and whatever leaves it
can be changed on its way out, so that tests can do what nodes never would."""

import base64
import collections
import hmac
import json
import os
import random
import select
import socket
import struct
import threading
import time

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import offset_capnp as capnp

PATIENCE = 20.0
KEEPALIVE = 16.0  # seconds of silence after which a node sends one
PADDING_MAX = 65535
FRAME_MAX = 17 * ((64 << 20) + 4096) // 16 + 128  # a message of 64 MiB, packed
VERSION = bytes(4)


class Closed(Exception):
    """The relay has closed the connection."""


class Refused(Exception):
    """What the relay sent breaks the protocol."""


# ---- keys ------------------------------------------------------------------------------


def hkdf(salt, secret):
    """HKDF-SHA-512/256 without info, 32 bytes."""
    extracted = hmac.new(salt, secret, "sha512_256").digest()
    return hmac.new(extracted, b"\x01", "sha512_256").digest()


def raw(public_key):
    return public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Identity:
    """An Ed25519 key pair, as one seed."""

    def __init__(self, seed=None):
        self.seed = seed or os.urandom(32)
        self.private = Ed25519PrivateKey.from_private_bytes(self.seed)
        self.key = raw(self.private.public_key())

    def sign(self, data):
        return self.private.sign(data)

    def write(self, path):
        text = json.dumps({"privateKey": base64url(self.seed)}, indent=2)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w",
                  encoding="ascii") as file:
            file.write(text)


def verify(key, signature, data):
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, data)
    except (InvalidSignature, ValueError):
        raise Refused("a signature that does not verify") from None


class Exchange:
    """One side's part in agreeing on keys: a fresh X25519 pair and a fresh salt."""

    def __init__(self, secret=None, salt=None):
        self.private = X25519PrivateKey.from_private_bytes(secret or os.urandom(32))
        self.public = raw(self.private.public_key())
        self.salt = salt or os.urandom(32)

    def secret(self, their_public):
        try:
            return self.private.exchange(X25519PublicKey.from_public_bytes(their_public))
        except ValueError:
            raise Refused("a secret of zeros") from None

    def keys(self, their_public, their_salt):
        """What we send under, and what they do."""
        secret = self.secret(their_public)
        return hkdf(self.salt, secret), hkdf(their_salt, secret)


class DirectionKey:
    """The key of one direction, with its counter of frames."""

    def __init__(self, key):
        self.key = key
        self.cipher = ChaCha20Poly1305(key)
        self.count = 0

    def nonce(self):
        return self.count.to_bytes(12, "little")

    def seal(self, plaintext):
        nonce = self.nonce()
        self.count += 1
        return nonce + self.cipher.encrypt(nonce, plaintext, None)

    def open(self, frame):
        """The plaintext, or None if the frame is not the next one under this key."""
        if len(frame) < 28 or frame[:12] != self.nonce():
            return None
        try:
            plaintext = self.cipher.decrypt(frame[:12], frame[12:], None)
        except InvalidTag:
            return None
        self.count += 1
        return plaintext


# ---- the secure channel ----------------------------------------------------------------


class Channel:
    """One end of a secure channel. `expected` is the key that the other end must have, which is
    also named to it; without one this is a relay's end. What is random can be given instead."""

    def __init__(self, identity, expected=None, nonce=None, exchange=None):
        self.identity = identity
        self.expected = expected
        self.nonce = nonce or os.urandom(16)
        self.exchange = exchange or Exchange()
        self.peer = None
        self.sending = self.receiving = self.old_receiving = None
        self.pending = None  # the Exchange of a rekey that we began
        self.rekeys = 0      # that are completed

    def exchange_rand_nonce(self):
        return capnp.write_exchange_rand_nonce(self.nonce, self.identity.key, self.expected)

    def exchange_dh(self, packed):
        """Our ExchangeDh, on the other side's ExchangeRandNonce."""
        their_nonce, self.peer, _ = capnp.read_exchange_rand_nonce(packed)
        if self.expected is not None and self.peer != self.expected:
            raise Refused("another identity than expected")
        ours = self.exchange
        signature = self.identity.sign(ours.public + their_nonce + ours.salt)
        return capnp.write_exchange_dh(ours.public, their_nonce, ours.salt, signature)

    def finish(self, packed):
        """Takes the other side's ExchangeDh: the keys are there."""
        public, nonce, salt, signature = capnp.read_exchange_dh(packed)
        if nonce != self.nonce:
            raise Refused("another nonce than ours")
        verify(self.peer, signature, public + nonce + salt)
        sending, receiving = self.exchange.keys(public, salt)
        self.sending, self.receiving = DirectionKey(sending), DirectionKey(receiving)

    def seal(self, user, padding=b"", writer=None):
        return self.sending.seal(capnp.write_channel_message(padding, user, writer=writer))

    def begin_rekey(self, exchange=None, padding=b""):
        """The frame that begins a rekey."""
        assert self.pending is None
        self.pending = exchange or Exchange()
        return self._rekey_frame(self.pending, padding)

    def open(self, frame):
        """What is in a frame: data of the user, or the rekey to complete; the other is None."""
        _, user, rekey = capnp.read_channel_message(self._decrypt(frame))
        return user, rekey

    def complete_rekey(self, rekey, exchange=None, padding=b""):
        """Takes the other side's Rekey. Returns the frame that answers it; None if we began."""
        ours, answer = self.pending, None
        if ours is None:
            ours = exchange or Exchange()
            answer = self._rekey_frame(ours, padding)
        sending, receiving = ours.keys(*rekey)
        self.sending = DirectionKey(sending)
        self.old_receiving, self.receiving = self.receiving, DirectionKey(receiving)
        self.pending = None
        self.rekeys += 1
        return answer

    def _decrypt(self, frame):
        plaintext = self.old_receiving and self.old_receiving.open(frame)
        if plaintext is None:
            plaintext = self.receiving.open(frame)
            if plaintext is None:
                raise Refused("a frame that is not the next one, or not genuine")
            self.old_receiving = None
        return plaintext

    def _rekey_frame(self, exchange, padding):
        return self.sending.seal(
            capnp.write_channel_message(padding, rekey=(exchange.public, exchange.salt)))


# ---- frames ----------------------------------------------------------------------------


def framed(payload):
    return struct.pack(">Q", len(payload)) + payload


def padding_like_the_reference():
    return os.urandom(random.randrange(PADDING_MAX + 1))


def no_padding():
    return b""


# ---- connections -----------------------------------------------------------------------


class Connection:
    """A node's connection to a relay, from the handshake on. Anyone may send, one thread receives,
    and keepalives are sent by themselves while it is lively.

    outgoing(number, bytes) is what leaves in place of a frame (0: version, 1: nonces, 2: keys)."""

    def __init__(self, address, identity, relay_key, *, padding=padding_like_the_reference,
                 lively=True, keepalive=KEEPALIVE, outgoing=None, handshake=True,
                 patience=PATIENCE):
        self.identity = identity
        self.channel = Channel(identity, relay_key)
        self.padding = padding
        self.keepalive = keepalive
        self.outgoing = outgoing
        self.frames_sent = 0
        self.last_sent = time.monotonic()
        self.keepalives = 0  # that came
        self.input = bytearray()
        self.output = collections.deque()
        self.withheld = False
        self.sealing = threading.RLock()  # the order of frames
        self.writing = threading.Lock()   # the socket
        self.closing = threading.Event()
        self.patience = patience
        self.socket = self.dial(address)
        self.readable = select.poll()
        self.readable.register(self.socket, select.POLLIN)
        if handshake:
            try:
                self.greet()
                self.shake_hands()
            except BaseException:
                self.close()
                raise
        if lively:
            threading.Thread(target=self._keep_alive, daemon=True).start()

    def dial(self, address):
        connection = socket.create_connection(address, self.patience)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    # Frames.

    def send_frame(self, payload):
        """Puts a frame in line. flush() is what may have to wait."""
        with self.sealing:
            data = framed(payload)
            if self.outgoing is not None:
                data = self.outgoing(self.frames_sent, data)
            self.frames_sent += 1
            self.output.append(data)

    def flush(self, wait=True):
        """Writes what is in line, unless another thread is at it and we need not wait for it."""
        while self.output and not self.withheld:
            if not self.writing.acquire(blocking=wait):  # pylint: disable=consider-using-with
                return
            try:
                while self.output:
                    self.socket.sendall(self.output.popleft())
            except (BrokenPipeError, ConnectionResetError):
                raise Closed("cannot be written to any more") from None
            except IndexError:
                pass
            finally:
                self.writing.release()

    def release(self):
        """Sends all that was withheld in one piece."""
        self.withheld = False
        data = b"".join(self.output)
        self.output.clear()
        self.socket.sendall(data)

    def receive_frame(self, until=None):
        if until is None:
            until = time.monotonic() + self.patience
        while True:
            if len(self.input) >= 8:
                size = struct.unpack(">Q", self.input[:8])[0]
                if size > FRAME_MAX:
                    raise Refused(f"a frame of {size} bytes")
                if len(self.input) >= 8 + size:
                    payload = bytes(self.input[8:8 + size])
                    del self.input[:8 + size]
                    return payload
            if not self.readable.poll(max(0.0, until - time.monotonic()) * 1000):
                raise TimeoutError("waited in vain for the relay")
            try:
                part = self.socket.recv(1 << 18)
            except ConnectionResetError:
                raise Closed("reset") from None
            if not part:
                raise Closed("in the middle of a frame" if self.input else "at the end of a frame")
            self.input += part

    # The handshake.

    def greet(self):
        """All that a node sends without waiting for the relay."""
        self.send_frame(VERSION)
        self.send_frame(self.channel.exchange_rand_nonce())
        self.flush()

    def shake_hands(self, withhold=False):
        """The rest. withhold: our ExchangeDh waits for release(), with all that follows it."""
        version = self.receive_frame()
        if version != VERSION:
            raise Refused(f"version {version.hex()}")
        self.withheld = withhold
        self.send_frame(self.channel.exchange_dh(self.receive_frame()))
        self.flush()
        self.channel.finish(self.receive_frame())

    # Messages.

    def send_user(self, user, writer=None):
        """Sends data of the secure channel's user, which is meant to be a KaMessage."""
        padding = self.padding()
        with self.sealing:
            self.send_frame(self.channel.seal(user, padding, writer))
            self.last_sent = time.monotonic()
        self.flush()

    def send(self, message, shape=capnp.as_the_reference):
        """shape: how the encodings around the message are laid out."""
        self.send_user(capnp.write_ka_message(message, shape()), shape())
        return self

    def send_keepalive(self):
        self.send_user(capnp.write_ka_message())

    def begin_rekey(self):
        with self.sealing:
            self.send_frame(self.channel.begin_rekey(padding=self.padding()))
        self.flush()

    def receive(self):
        """The next message. Keepalives and rekeys in between are seen to; Closed at the end."""
        until = time.monotonic() + self.patience
        while True:
            user = self.open(self.receive_frame(until))
            if user is None:
                continue
            message = capnp.read_ka_message(user)
            if message is not None:
                return message
            self.keepalives += 1

    def open(self, frame):
        user, rekey = self.channel.open(frame)
        if rekey is not None:
            self.complete_rekey(rekey)
        return user

    def complete_rekey(self, rekey):
        with self.sealing:
            answer = self.channel.complete_rekey(rekey, padding=self.padding())
            if answer is not None:
                self.send_frame(answer)
        self.flush(wait=False)

    def expect_closed(self):
        """No further message, and the end."""
        try:
            message = self.receive()
        except Closed:
            return
        raise AssertionError(f"expected the end, got a message of {len(message)} bytes")

    # What a node asks of a relay.

    def listen(self):
        return self.send(capnp.write_init_connection("listen"))

    def connect_to(self, key):
        return self.send(capnp.write_init_connection("connect", key))

    def accept(self, key):
        return self.send(capnp.write_init_connection("accept", key))

    def reject(self, key):
        return self.send(capnp.write_public_key(key))

    def incoming(self):
        """Who wants to connect, as the relay tells a listener."""
        return capnp.read_public_key(self.receive())

    # The rest.

    def _keep_alive(self):
        while not self.closing.wait(max(0.1, self.last_sent + self.keepalive - time.monotonic())):
            if time.monotonic() >= self.last_sent + self.keepalive:
                try:
                    self.send_keepalive()
                except (Closed, OSError):
                    return

    def finish(self):
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.close()

    def close(self):
        self.closing.set()
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()
