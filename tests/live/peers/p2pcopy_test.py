"""The real, unmodified `p2p-copy` (from PyPI) copies through the relay."""

import filecmp
import os
import random
import shutil
import subprocess
import tempfile

from packages import Site, end, python_program  # first, as it says where the others are

from harness import PATIENCE, Relay, behaviour, run, wait_until
from magic_wormhole import digest

TRANSFER_TIME = 240
SCHEMES = ("ws", "wss")


class Copy:
    """A directory to send from and one to receive in, and clients that are ended in the end."""

    def __init__(self, site):
        self.site = site
        self.directory = tempfile.mkdtemp(prefix="relay-p2p-copy-")
        self.source = os.path.join(self.directory, "source")
        self.target = os.path.join(self.directory, "target")
        os.mkdir(self.source)
        self.program = python_program("p2p-copy")
        self.clients = []

    def file(self, name, size, random_bytes=True):
        """Makes a file to send; its path."""
        path = os.path.join(self.source, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            while size > 0:
                block = min(size, 1 << 20)
                file.write(os.urandom(block) if random_bytes else b"relay " * (block // 6 + 1))
                size -= block
        return path

    def received(self, name):
        return os.path.join(self.target, name)

    def _start(self, role, *arguments):
        client = subprocess.Popen(
            [self.program, role, self.site.url, *arguments], cwd=self.directory,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=self.site.environment)
        self.clients.append(client)
        return client

    def send(self, code, *paths, options=()):
        return self._start("send", code, *paths, *options)

    def receive(self, code, *options):
        return self._start("receive", code, f"--out={self.target}", *options)

    @staticmethod
    def finish(*clients):
        for client in clients:
            output = client.communicate(timeout=TRANSFER_TIME)[0].decode(errors="replace")
            assert client.returncode == 0, f"status {client.returncode}: {output.split(chr(10))[-4:]}"

    @staticmethod
    def finish_badly(client):
        output = client.communicate(timeout=PATIENCE)[0].decode(errors="replace")
        assert client.returncode != 0, f"it should have failed: {output!r}"
        return output

    def whole(self, code, *paths, send_options=(), receive_options=()):
        """One copy from beginning to end."""
        receiver = self.receive(code, *receive_options)
        sender = self.send(code, *paths, options=send_options)
        self.finish(sender, receiver)

    def compare(self, name):
        assert digest(os.path.join(self.source, name)) == digest(self.received(name)), (
            f"{name} differs")

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        for client in self.clients:
            end(client)
            client.stdout.close()
        shutil.rmtree(self.directory)


@behaviour(*Relay.MODES)
def a_file_is_copied_however_the_relay_was_started(how):
    with Site("ws", how) as site, Copy(site) as copy:
        copy.whole("a code", copy.file("file", 10_000_000))
        copy.compare("file")
        site.relay.wait_for(used=0)


@behaviour("serve", "accept")
def a_file_is_copied_over_tls_however_the_relay_was_started(how):
    with Site("wss", how) as site, Copy(site) as copy:
        copy.whole("a code", copy.file("file", 10_000_000))
        copy.compare("file")
        site.relay.wait_for(used=0)


OPTIONS = {
    "plain": ((), ()),
    "--encrypt": (("--encrypt",), ("--encrypt",)),
    "--compress on": (("--compress", "on"), ()),
    "--compress off": (("--compress", "off"), ()),
    "--encrypt --compress on --resume": (("--encrypt", "--compress", "on", "--resume"), ("--encrypt",)),
}


@behaviour(*(f"{scheme} {options}" for scheme in SCHEMES for options in OPTIONS))
def a_file_is_copied_with_every_option(variant):
    scheme, options = variant.split(" ", maxsplit=1)
    with Site(scheme) as site, Copy(site) as copy:
        send_options, receive_options = OPTIONS[options]
        for name, random_bytes in (("random", True), ("repeating", False), ("empty", True)):
            if name == "empty" and "--resume" in send_options:
                continue  # p2p-copy takes it for one that is there already
            size = 0 if name == "empty" else 20_000_000
            copy.whole(f"code for {name}", copy.file(name, size, random_bytes),
                       send_options=send_options, receive_options=receive_options)
            copy.compare(name)


@behaviour(*SCHEMES)
def five_hundred_megabytes_arrive_with_equal_hashes(scheme):
    with Site(scheme) as site, Copy(site) as copy:
        copy.whole("a code", copy.file("large", 500_000_000))
        copy.compare("large")


@behaviour(*SCHEMES)
def a_directory_of_many_files_arrives(scheme):
    with Site(scheme) as site, Copy(site) as copy:
        sizes = random.Random(6455)
        for number in range(1000):
            copy.file(f"tree/{number % 10}/{number % 7}/{number}", sizes.choice((0, 1, 100, 5000, 70_000)))
        copy.whole("a code", os.path.join(copy.source, "tree"))
        different = filecmp.dircmp(os.path.join(copy.source, "tree"), copy.received("tree"))
        count = 0
        pending = [different]
        while pending:
            one = pending.pop()
            assert not one.left_only and not one.right_only, (one.left_only, one.right_only)
            same, unequal, failed = filecmp.cmpfiles(one.left, one.right, one.common_files, shallow=False)
            assert not unequal and not failed, (unequal, failed)
            count += len(same)
            pending.extend(one.subdirs.values())
        assert count == 1000, count


@behaviour(*SCHEMES)
def four_connections_at_once_share_the_work(scheme):
    with Site(scheme) as site, Copy(site) as copy:
        paths = [copy.file(f"file-{number}", 5_000_000) for number in range(8)]
        copy.whole("n=4=na code", *paths)
        for path in paths:
            copy.compare(os.path.basename(path))


@behaviour(*(f"{scheme}, the {role} is killed" for scheme in SCHEMES for role in ("sender", "receiver")))
def an_interrupted_copy_is_resumed(variant):
    scheme, victim = variant.split(", the ")
    size = 200_000_000
    with Site(scheme) as site, Copy(site) as copy:
        path = copy.file("large", size)
        receiver, sender = copy.receive("a code"), copy.send("a code", path, options=["--resume"])
        target = copy.received("large")

        def arrived():
            return os.path.getsize(target) if os.path.exists(target) else 0

        wait_until(lambda: arrived() > 10_000_000, "a part of the file")
        (sender if victim.startswith("sender") else receiver).kill()
        for client in (sender, receiver):
            client.wait(PATIENCE)
        part = arrived()
        assert 0 < part < size, "it was not interrupted"
        site.relay.wait_for(used=0)
        before = site.relay.status()["total_bytes"]
        copy.whole("a code", path, send_options=["--resume"])
        copy.compare("large")
        carried = site.relay.status()["total_bytes"] - before
        assert carried < size - part + 2_000_000, f"{carried} bytes for the missing {size - part}"


@behaviour("send", "receive")
def two_of_one_role_are_both_refused_and_the_code_is_free(role):
    with Site() as site, Copy(site) as copy:
        path = copy.file("file", 1_000_000)
        both = [copy.send("a code", path) if role == "send" else copy.receive("a code")
                for _ in range(2)]
        for client in both:
            output = copy.finish_badly(client)
            assert "1013" in output and "Duplicate role for code" in output, output[-500:]
        copy.whole("a code", path)
        copy.compare("file")


@behaviour()
def a_third_client_waits_for_a_fourth_under_the_code_of_a_pair():
    with Site() as site, Copy(site) as copy, Copy(site) as other:
        paths = [copy.file("first", 200_000_000), other.file("second", 1_000_000)]
        first = [copy.receive("a code"), copy.send("a code", paths[0])]
        wait_until(lambda: os.path.exists(copy.received("first")), "the first copy to begin")
        second = [other.receive("a code"), other.send("a code", paths[1])]
        other.finish(*second)
        other.compare("second")
        copy.finish(*first)
        copy.compare("first")


@behaviour()
def many_copies_at_once_do_not_mix():
    with Site() as site, Copy(site) as copy:
        clients = []
        for number in range(6):
            path = copy.file(f"file-{number}", 3_000_000)
            clients.append(copy.send(f"code {number}", path))
            clients.append(copy.receive(f"code {number}"))
        copy.finish(*clients)
        for number in range(6):
            copy.compare(f"file-{number}")


@behaviour()
def a_client_that_does_not_trust_the_certificate_is_not_served():
    with Site("wss") as site, Copy(site) as copy:
        del site.environment["SSL_CERT_FILE"]
        output = copy.finish_badly(copy.send("a code", copy.file("file", 1000)))
        assert "CERTIFICATE_VERIFY_FAILED" in output, output[-500:]


if __name__ == "__main__":
    run()
