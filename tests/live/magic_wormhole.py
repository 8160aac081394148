"""Two real, unmodified `wormhole` clients, and their mailbox server, on loopback."""

import hashlib
import os
import shutil
import subprocess
import tempfile

from harness import PATIENCE, Skip, free_port, wait_until

PYTHON = "/usr/bin/python3"  # Debian's, which has Debian's packages
SIZE = 100_000_000
TRANSFER_TIME = 120


class Mailbox:
    """magic-wormhole's mailbox server, on loopback."""

    def __init__(self, directory):
        self.port = free_port()
        self.log = open(os.path.join(directory, "mailbox.log"), "wb")
        self.process = subprocess.Popen(
            [PYTHON, "-m", "twisted", "wormhole-mailbox",
             f"--port=tcp:{self.port}:interface=127.0.0.1",
             f"--channel-db={directory}/mailbox.sqlite"],
            cwd=directory, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        try:
            wait_until(self._answers, "the mailbox server")
        except BaseException:
            self.stop()
            raise

    def _answers(self):
        if self.process.poll() is not None:
            raise Skip("magic-wormhole's mailbox server does not start")
        with open("/proc/net/tcp", encoding="ascii") as file:
            return f":{self.port:04X} 00000000:0000 0A" in file.read()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(PATIENCE)
        self.log.close()


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def wormhole(mailbox, relay, directory, *arguments):
    home = os.path.join(directory, "home")
    os.makedirs(home, exist_ok=True)
    return subprocess.Popen(
        ["wormhole", f"--relay-url=ws://127.0.0.1:{mailbox.port}/v1",
         f"--transit-helper=tcp:127.0.0.1:{relay.port}", *arguments],
        cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=dict(os.environ, HOME=home))


def send_a_file(relay):
    if shutil.which("wormhole") is None:
        raise Skip("the wormhole command is not installed")
    with tempfile.TemporaryDirectory(prefix="relay-wormhole-") as directory:
        source = os.path.join(directory, "source")
        target = os.path.join(directory, "target")
        with open(source, "wb") as file:
            for _ in range(SIZE // 1_000_000):
                file.write(os.urandom(1_000_000))
        mailbox = Mailbox(directory)
        clients = []
        try:
            clients.append(wormhole(mailbox, relay, directory, "send", "--hide-progress",
                                    "--no-listen", "--code=1-relay-test", source))
            clients.append(wormhole(mailbox, relay, directory, "receive", "--hide-progress",
                                    "--no-listen", "--accept-file", f"--output-file={target}",
                                    "1-relay-test"))
            outputs = [client.communicate(timeout=TRANSFER_TIME)[0].decode() for client in clients]
        finally:
            for client in clients:
                if client.poll() is None:
                    client.kill()
                    client.wait()
            mailbox.stop()
        for client, output in zip(clients, outputs):
            assert client.returncode == 0, output
        assert digest(source) == digest(target), "the files differ"
