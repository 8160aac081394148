"""A relay with an Offset identity, and Offset nodes at it: what the Offset tests stand on."""

import hashlib
import os
import random
import re
import select
import shutil
import tempfile
import threading

from harness import PATIENCE, Relay, wait_until
from offset_client import Closed, Connection, Identity

WAYS = Relay.MODES
POOL = os.urandom(3 << 20)


class OffsetRelay(Relay):
    """identity: what it is to have; it is given as a file."""

    def __init__(self, how="serve", options=(), **others):
        self.identity = Identity()
        self.identity_directory = tempfile.mkdtemp(prefix="relay-identity-")
        os.chmod(self.identity_directory, 0o755)
        path = os.path.join(self.identity_directory, "relay.ident")
        self.identity.write(path)
        if how == "inetd" and os.geteuid() == 0:
            shutil.chown(path, "nobody", "nogroup")  # the user that relay becomes
        try:
            super().__init__(how, [f"--idfile={path}", *options], **others)
        except BaseException:
            shutil.rmtree(self.identity_directory)
            raise

    def stop(self):
        status = super().stop()
        shutil.rmtree(self.identity_directory, ignore_errors=True)
        return status

    def open(self, identity=None, kind=Connection, **options):
        """A node's connection, after the handshake."""
        return kind(("127.0.0.1", self.port), identity or Identity(), self.identity.key, **options)

    def try_to_listen(self, identity, **options):
        """A connection that listens, or None if the relay closed it. As a relay confirms nothing,
        strangers connect to it until one is announced."""
        listener = self.open(identity, **options).listen()
        while True:
            with self.open(lively=False) as stranger:
                stranger.connect_to(identity.key)
                either = select.poll()
                for socket in (listener.socket, stranger.socket):
                    either.register(socket, select.POLLIN)
                ready = [descriptor for descriptor, _ in either.poll(PATIENCE * 1000)]
                assert ready, "neither announced nor refused"
                if listener.socket.fileno() in ready:
                    try:
                        assert listener.incoming() == stranger.identity.key
                        return listener
                    except Closed:
                        listener.close()
                        return None

    def listener(self, identity=None, **options):
        listener = self.try_to_listen(identity or Identity(), **options)
        assert listener is not None, "the relay does not let it listen"
        return listener

    def connector(self, listener, identity=None, **options):
        """A connection that waits for the listener, to which it was announced."""
        connector = self.open(identity, **options).connect_to(listener.identity.key)
        key = listener.incoming()
        assert key == connector.identity.key, "another key is announced"
        return connector

    def acceptor(self, listener, connector, **options):
        return self.open(listener.identity, **options).accept(connector.identity.key)

    def tunnel(self, listener=None, **options):
        """The two ends of a tunnel: the connector's and the acceptor's. Without a listener, one that
        leaves when the tunnel is there."""
        own = listener is None
        if own:
            listener = self.listener()
        connector = self.connector(listener, **options)
        acceptor = self.acceptor(listener, connector, **options)
        exchange(connector, acceptor)
        if own:
            listener.close()
        return connector, acceptor

    def log_lines(self):
        """Those of connections that were refused or closed: with --debug, each has one."""
        return [text for text in self.log().splitlines()
                if re.match(r"relay: (refused|closed) a connection", text)]

    def expect_log_lines(self, before, count):
        """Exactly so many more of them than `before`."""
        wait_until(lambda: len(self.log_lines()) - before >= count, f"{count} log lines")
        new = self.log_lines()[before:]
        assert len(new) == count, f"{len(new)} log lines instead of {count}, the last: {new[-1]}"


# ---- talking ---------------------------------------------------------------------------


def exchange(first, second, count=3):
    """Messages both ways, compared."""
    for sender, receiver in ((first, second), (second, first)):
        messages = [os.urandom(random.randrange(2000)) for _ in range(count)]
        for message in messages:
            sender.send(message)
        for message in messages:
            assert receiver.receive() == message, "another message"


def message_of(size):
    at = random.randrange(len(POOL) - size + 1)
    return POOL[at:at + size]


class Tally:
    """Messages that went by: how many, and one hash over all, in order, with their sizes."""

    def __init__(self):
        self.count = 0
        self.hash = hashlib.sha256()

    def add(self, message):
        self.count += 1
        self.hash.update(len(message).to_bytes(8, "big") + message)

    def __eq__(self, other):
        return (self.count, self.hash.digest()) == (other.count, other.hash.digest())


def send_all(sender, sizes):
    tally = Tally()
    for size in sizes:
        message = message_of(size)
        tally.add(message)
        sender.send(message)
    return tally


def receive_many(receiver, count):
    tally = Tally()
    for _ in range(count):
        tally.add(receiver.receive())
    return tally


def receive_all(receiver):
    """Until the end."""
    tally = Tally()
    while True:
        try:
            tally.add(receiver.receive())
        except Closed:
            return tally


class Task(threading.Thread):
    """A function at work; result() is what it returned, or raises what it raised."""

    def __init__(self, function, *arguments):
        super().__init__(daemon=True)
        self.work = lambda: function(*arguments)
        self.value = self.error = None
        self.start()

    def run(self):
        try:
            self.value = self.work()
        except BaseException as error:  # pylint: disable=broad-except
            self.error = error

    def result(self, patience=300):
        self.join(patience)
        assert not self.is_alive(), "it does not come to an end"
        if self.error is not None:
            raise self.error
        return self.value
