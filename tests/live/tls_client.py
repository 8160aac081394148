"""Certificates of our own making, clients in TLS that trust them, and a relay that has one."""

import atexit
import contextlib
import hmac
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import time

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from harness import PATIENCE, Client, Relay

work = tempfile.mkdtemp(prefix="relay-tls-")
os.chmod(work, 0o755)
atexit.register(shutil.rmtree, work, ignore_errors=True)


class Certificate:
    """A certificate of its own making, in two files, which anybody may read."""

    def __init__(self, name, kind="ec"):
        self.certfile = os.path.join(work, f"{name}.pem")
        self.keyfile = os.path.join(work, f"{name}.key")
        key = ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"] if kind == "ec" else ["rsa:2048"]
        subprocess.run(
            ["openssl", "req", "-x509", "-nodes", "-newkey", *key, "-days", "30",
             "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:relay.test",
             "-out", self.certfile, "-keyout", self.keyfile],
            check=True, stderr=subprocess.DEVNULL)
        os.chmod(self.keyfile, 0o644)

    def options(self):
        return [f"--certfile={self.certfile}", f"--keyfile={self.keyfile}"]

    def context(self):
        context = ssl.create_default_context(cafile=self.certfile)
        # An end that is not told as TLS does is an error here.
        context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
        if "TLS_1_2" in os.environ:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        return context

    def install_as(self, other):
        """Takes the place of another one's files, as certbot and its like do it."""
        for mine, its in ((self.certfile, other.certfile), (self.keyfile, other.keyfile)):
            shutil.copy(mine, its + ".new")
            os.rename(its + ".new", its)


FIRST, SECOND = Certificate("first"), Certificate("second")


def renewable(name):
    """Files of their own, with the first certificate in them."""
    certificate = Certificate(name)
    FIRST.install_as(certificate)
    return certificate


def client_hello():
    """The first record of a client in TLS."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = FIRST.context().wrap_bio(incoming, outgoing, server_hostname="relay.test")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


class Secure(Client):
    """A connection in TLS."""

    def __init__(self, relay, context=None, patience=PATIENCE, preface=b""):
        super().__init__(("127.0.0.1", relay.port), patience, preface)
        context = context or FIRST.context()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(
            self.socket, server_hostname="relay.test", suppress_ragged_eofs=False)

    def name(self):
        return dict(part[0] for part in self.socket.getpeercert()["subject"])["commonName"]


def secure_relay(how="serve", certificate=FIRST, options=(), **keywords):
    return Relay(how, options=[*certificate.options(), *options], **keywords)


class Pieces(Client):
    """A TLS client whose bytes pass through our hands: to close one direction only, which Python's
    TLS sockets cannot, and to send them slowly."""

    def __init__(self, relay, context=None):
        super().__init__(("127.0.0.1", relay.port))
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = (context or FIRST.context()).wrap_bio(
            self.incoming, self.outgoing, server_hostname="relay.test")

    def heard(self, data):
        """What was heard, before OpenSSL hears it."""
        return data

    def flush(self, piece=None):
        data = self.outgoing.read()
        for at in range(0, len(data), piece or max(len(data), 1)):
            super().send(data[at:at + (piece or len(data))])
            if piece:
                time.sleep(0.0005)

    def _until_done(self, action, piece=None):
        while True:
            try:
                result = action()
                self.flush(piece)
                return result
            except ssl.SSLWantReadError:
                self.flush(piece)
                data = self.socket.recv(65536)
                if not data:
                    self.incoming.write_eof()
                self.incoming.write(self.heard(data))

    def shake_hands(self, piece=None):
        self._until_done(self.tls.do_handshake, piece)
        return self

    def send(self, data, piece=None):
        self.tls.write(data)
        self.flush(piece)
        return self

    def receive_some(self, size):
        try:
            return self._until_done(lambda: self.tls.read(size))
        except ssl.SSLZeroReturnError:
            return b""

    def finish(self):
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        self.flush()


def prf(secret, label, seed, size):
    """That of TLS 1.2, with SHA-256."""
    seed, out, part = label + seed, b"", label + seed
    while len(out) < size:
        part = hmac.digest(secret, part, "sha256")
        out += hmac.digest(secret, part + seed, "sha256")
    return out[:size]


def records_of(data):
    while data:
        size = 5 + int.from_bytes(data[3:5], "big")
        yield data[:size]
        data = data[size:]


class Splitting(Pieces):
    """A client of TLS 1.2 whose Finished is sent in records of `piece` bytes, as it may be: OpenSSL
    sends it in one, so its records are opened and sealed again on their way."""

    def __init__(self, relay, piece):
        context = FIRST.context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
        self.secrets = tempfile.NamedTemporaryFile(dir=work)
        context.keylog_filename = self.secrets.name
        super().__init__(relay, context)
        self.piece = piece
        self.numbers = None  # of the next record: theirs, ours
        self.key = self.salt = None

    def _take_key(self):
        _, client_random, master = self.secrets.read().decode().split()[-3:]
        randoms = self.server_random + bytes.fromhex(client_random)
        block = prf(bytes.fromhex(master), b"key expansion", randoms, 40)
        self.key, self.salt = AESGCM(block[:16]), block[32:36]

    def _seal(self, kind, data):
        number = self.numbers[1].to_bytes(8, "big")
        self.numbers[1] += 1
        head = number + kind + b"\3\3" + len(data).to_bytes(2, "big")
        sealed = number + self.key.encrypt(self.salt + number, data, head)
        return kind + b"\3\3" + len(sealed).to_bytes(2, "big") + sealed

    def _pass_on(self, record):
        """What becomes of a record, which was sealed for another number."""
        if self.numbers is None:
            if record[:1] == b"\x14":  # ChangeCipherSpec
                self._take_key()
                self.numbers = [0, 0]
            return record
        number, kind = self.numbers[0].to_bytes(8, "big"), record[:1]
        self.numbers[0] += 1
        head = number + record[:3] + (len(record) - 29).to_bytes(2, "big")
        data = self.key.decrypt(self.salt + record[5:13], record[13:], head)
        step = self.piece if kind == b"\x16" else len(data)
        return b"".join(self._seal(kind, data[at:at + step]) for at in range(0, len(data), step))

    def heard(self, data):
        if self.numbers is None and data[:1] == b"\x16" and data[5:6] == b"\2":  # ServerHello
            self.server_random = data[11:43]
        return data

    def flush(self, piece=None):
        for record in records_of(self.outgoing.read()):
            Client.send(self, self._pass_on(record))
