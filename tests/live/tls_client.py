"""Certificates of our own making, clients in TLS that trust them, and a relay that has one."""

import atexit
import os
import shutil
import socket
import ssl
import subprocess
import tempfile

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
