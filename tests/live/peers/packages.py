"""The real clients, where `install` has put them, or why they cannot be had."""

import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

# pylint: disable=wrong-import-position
from harness import PEERS, Relay, Skip  # noqa: E402

NPM = os.path.join(PEERS, "npm")


def _need(name):
    if os.path.exists(os.path.join(PEERS, f"{name}.installed")):
        return
    try:
        with open(os.path.join(PEERS, f"{name}.missing"), encoding="utf-8", errors="replace") as file:
            reason = file.read().strip() or "the installation failed"
    except OSError:
        reason = "tests/live/peers/install has not been run"
    raise Skip(reason)


def python_program(name):
    """The path of a command from PyPI."""
    _need("venv")
    return os.path.join(PEERS, "venv", "bin", name)


def node_script(name):
    """A command that runs a script of this directory beside the packages that it imports."""
    _need("npm")
    node = shutil.which("node") or shutil.which("nodejs")
    if node is None:
        raise Skip("there is no node")
    return [node, "--no-warnings", shutil.copy(os.path.join(HERE, name), NPM)]


def end(process):
    """Ends a process, if it has not ended, and returns its status."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


class Certificate:
    """A certificate for localhost and 127.0.0.1, by an authority that was made for it."""

    def __init__(self):
        if shutil.which("openssl") is None:
            raise Skip("there is no openssl command")
        self.directory = tempfile.mkdtemp(prefix="relay-certificate-")
        os.chmod(self.directory, 0o755)
        self.authority, authority_key = self._path("authority.pem"), self._path("authority.key")
        self.file, self.key, request = self._path("cert.pem"), self._path("key.pem"), self._path("request")
        new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        self._openssl("req", "-x509", *new_key, "-subj", "/CN=test authority", "-days", "2",
                      "-keyout", authority_key, "-out", self.authority)
        self._openssl("req", *new_key, "-subj", "/CN=localhost", "-keyout", self.key, "-out", request)
        extensions = self._path("extensions")
        with open(extensions, "w", encoding="ascii") as file:
            file.write("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        self._openssl("x509", "-req", "-in", request, "-CA", self.authority, "-CAkey", authority_key,
                      "-CAcreateserial", "-days", "2", "-extfile", extensions, "-out", self.file)

    def _path(self, name):
        return os.path.join(self.directory, name)

    @staticmethod
    def _openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    @property
    def options(self):
        return [f"--certfile={self.file}", f"--keyfile={self.key}"]

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        shutil.rmtree(self.directory)


class Site:
    """A relay with or without TLS, and how a client is told to trust it."""

    def __init__(self, scheme="ws", how="serve"):
        self.certificate = Certificate() if scheme in ("wss", "https") else None
        self.relay = None
        try:
            self.relay = Relay(how, self.certificate.options if self.certificate else ())
        except BaseException:
            self._end_certificate()
            raise
        self.url = f"{scheme}://127.0.0.1:{self.relay.port}"
        self.environment = dict(os.environ)
        if self.certificate:
            self.environment.update(SSL_CERT_FILE=self.certificate.authority,
                                    NODE_EXTRA_CA_CERTS=self.certificate.authority)

    def _end_certificate(self):
        if self.certificate:
            self.certificate.__exit__()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.relay.__exit__(*error)
        self._end_certificate()
