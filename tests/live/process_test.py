"""relay's processes among others: signals that others send, parents that die, and
what `ps` calls them."""

import contextlib
import os
import signal
import ssl
import subprocess
import tempfile
import time

from harness import (PATIENCE, RELAY, Client, Relay, Skip, alive, behaviour, children, exchange,
                     free_port, line, make_pair, new_side, new_token, process_name, run, wait_until)
from tls_client import client_hello


def of_relay(relay):
    """All processes of a relay, however they came to be: each has its directory in its memory map,
    or in its command line, or was started by one that has."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or not alive(int(entry)):
            continue
        with contextlib.suppress(OSError):
            with open(f"/proc/{entry}/maps", encoding="utf-8", errors="replace") as file:
                mapped = relay.runtime in file.read()
            if (mapped or relay.runtime in command_line(entry)) and is_relay(entry):
                found.append(int(entry))
    for pid in found:
        found += [child for child in children(pid) if child not in found]
    return found


def is_relay(pid):
    return os.path.basename(os.readlink(f"/proc/{pid}/exe")) == os.path.basename(RELAY)


def command_line(pid):
    with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
        return file.read().replace("\0", " ").strip()


def serve_again(relay):
    """Another server with the options of a dead one, and its log behind the dead one's."""
    said = len(relay.log())
    with open(relay.log_path, "ab") as log:
        relay.process = subprocess.Popen(relay._command(None), stdin=subprocess.DEVNULL, stdout=log,
                                         stderr=log)
    wait_until(lambda: "listening on" in relay.log()[said:] or relay.process.poll() is not None,
               "it to listen")
    assert relay.process.poll() is None, relay.log()[said:]


def certificate(directory):
    """A certificate so long that the kernel does not take it from the server at once: there is more to
    be sent to a client that has gone."""
    chain, key = os.path.join(directory, "chain.pem"), os.path.join(directory, "key.pem")
    names = ",".join(f"DNS:{number:050}.test" for number in range(200))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", key, "-out", chain, "-subj", "/CN=relay.test", "-addext", f"subjectAltName={names}",
         "-days", "3"], stderr=subprocess.DEVNULL, check=True)
    for path in (directory, chain, key):
        os.chmod(path, 0o755)
    return chain, key


class HalfShaken:
    """A client that has begun to shake hands in TLS: a worker is kept by what comes of it."""

    def __init__(self, address):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing)
        self.client = Client(address)
        self._step(self.tls.do_handshake)
        self.incoming.write(self.client.receive(1))

    def _step(self, function):
        try:
            return function()
        except ssl.SSLWantReadError:
            return None
        finally:
            self.client.send(self.outgoing.read())

    def _run(self, function):
        result = self._step(function)
        while result is None:
            self.incoming.write(self.client.receive_some(1 << 16) or b"")
            result = self._step(function)
        return result

    def finish(self, data):
        self._run(lambda: self.tls.do_handshake() or True)
        self._step(lambda: self.tls.write(data))

    def expect(self, data):
        assert self._run(lambda: self.tls.read(len(data))) == data

    def close(self):
        self.client.close()


@contextlib.contextmanager
def relay_with_tls():
    with tempfile.TemporaryDirectory(prefix="relay-certificate-") as directory:
        chain, key = certificate(directory)
        relay = Relay(options=[f"--certfile={chain}", f"--keyfile={key}"])
        try:
            yield relay
        finally:
            relay.stop()


# ---- signals --------------------------------------------------------------------------


@behaviour("HUP", "USR1", "USR2", "QUIT", "PIPE", "XFSZ")
def no_process_ends_by_a_signal_that_is_meant_for_others(name):
    with tempfile.NamedTemporaryFile(prefix="relay-usage-") as records:
        with Relay(options=[f"--log-fd={records.fileno()}"], pass_fds=[records.fileno()]) as relay:
            pair = make_pair(relay)
            wait_until(lambda: "relay-record" in map(process_name, of_relay(relay)), "the recorder")
            processes = of_relay(relay)
            for part in ("relay", "relay-worker", "relay-forward", "relay-record", "relay-records"):
                assert part in map(process_name, processes), (part, processes)
            for pid in processes:
                os.kill(pid, getattr(signal, f"SIG{name}"))
            exchange(*pair)
            exchange(*make_pair(relay))
            assert all(map(alive, processes)), relay.log()
            assert "signal" not in relay.log(), relay.log()


@behaviour()
def neither_does_a_forwarder_on_demand():
    with Relay("accept") as relay:
        pair = make_pair(relay)
        for name in ("HUP", "USR1", "USR2", "QUIT"):
            os.kill(relay.forwarder(), getattr(signal, f"SIG{name}"))
            exchange(*pair)


@behaviour()
def an_interrupt_from_the_terminal_ends_all_quietly():
    with Relay(under=["setsid"]) as relay:
        pair = make_pair(relay)
        processes = of_relay(relay)
        greeting = relay.connect().send(b"please relay ")
        relay.wait_for(greeting=1)
        before = relay.log()
        os.killpg(relay.process.pid, signal.SIGINT)
        for client in (*pair, greeting):
            client.expect_end()
        assert relay.process.wait(PATIENCE) == 0
        wait_until(lambda: not any(map(alive, processes)), "all to end")
        assert relay.log() == before, relay.log()


@behaviour()
def a_client_that_leaves_during_the_handshake_ends_no_worker():
    hello = client_hello()
    with tempfile.TemporaryDirectory(prefix="relay-certificate-") as directory:
        chain, key = certificate(directory)
        with Relay(options=[f"--certfile={chain}", f"--keyfile={key}"]) as relay:
            before = relay.log()
            for number in range(1, 31):
                client = relay.connect().send(hello)
                client.close()
                relay.wait_for_outcomes("tls", empty=number)
            assert relay.log() == before, relay.log()


@behaviour()
def workers_are_replaced_though_the_starter_ignored_the_end_of_children():
    with Relay(under=["env", "--ignore-signal=SIGCHLD"], options=["--max-workers=2"]) as relay:
        for _ in range(3):
            workers = relay.workers()
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda old=workers: not set(old) & set(relay.workers()), "them to be reaped")
            exchange(*make_pair(relay))


# ---- parents that die -----------------------------------------------------------------


@behaviour("TCP", "Unix")
def a_server_starts_at_once_though_workers_of_a_killed_one_greet(kind):
    with relay_with_tls() as relay:
        address = ("127.0.0.1", relay.port)
        if kind == "Unix":
            relay.kill_server()
            address = os.path.join(relay.directory, "socket")
            relay._command = lambda _: [RELAY, "serve", f"--listen=unix:{address}", *relay.options]
            serve_again(relay)
        greeting = [HalfShaken(address) for _ in range(3)]
        relay.wait_for(greeting=3)
        relay.kill_server()
        serve_again(relay)
        # A greeting comes to its end, and the client meets a client of the new server.
        token = new_token()
        greeting[0].finish(line(token, new_side()))
        other = Client(address).send(line(token, new_side()))
        other.expect(b"ok\n")
        greeting[0].expect(b"ok\n")
        for client in (*greeting, other):
            client.close()


@behaviour()
def a_stalled_worker_of_a_killed_server_does_not_keep_its_address():
    with relay_with_tls() as relay:
        greeting = HalfShaken(("127.0.0.1", relay.port))
        relay.wait_for(greeting=1)
        stalled = relay.workers()[:-1]
        for pid in stalled:
            os.kill(pid, signal.SIGSTOP)
        try:
            relay.kill_server()
            serve_again(relay)
            exchange(*make_pair(relay))
            greeting.close()
        finally:
            for pid in stalled:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def listening_sockets(pid, port):
    """The sockets of a process that listen on a port."""
    with open("/proc/net/tcp", encoding="ascii") as file:
        wanted = [f"socket:[{fields[9]}]" for fields in map(str.split, file)
                  if fields[1].endswith(f":{port:04X}") and fields[3] == "0A"]
    assert wanted, "somebody listens"
    links = []
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            links.append(os.readlink(f"/proc/{pid}/fd/{entry}"))
    return set(wanted) & set(links)


@behaviour()
def a_busy_worker_that_is_told_to_stop_accepts_no_more():
    with relay_with_tls() as relay:
        greeting = HalfShaken(("127.0.0.1", relay.port))
        relay.wait_for(greeting=1)
        workers = relay.workers()
        assert all(listening_sockets(pid, relay.port) for pid in workers)
        for pid in workers:
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda: sum(map(alive, workers)) == 1, "one to be left")
        busy = next(pid for pid in workers if alive(pid))
        wait_until(lambda: not listening_sockets(busy, relay.port), "it to let go of its socket")
        greeting.finish(line(new_token(), new_side()))
        relay.wait_for(waiting=1)
        exchange(*make_pair(relay))
        greeting.close()


@behaviour()
def no_worker_outlives_a_server_that_dies_as_it_makes_workers():
    with tempfile.TemporaryDirectory(prefix="relay-orphans-") as directory:
        os.chmod(directory, 0o755)
        port = free_port()
        command = [RELAY, "serve", f"--listen=127.0.0.1:{port}", f"--runtime-dir={directory}/run",
                   f"--state-dir={directory}/state", "--idle-timeout=1"]
        for round_ in range(60):
            server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            with open(f"/proc/{server.pid}/task/{server.pid}/children", encoding="ascii") as file:
                until = time.monotonic() + PATIENCE
                made = []
                while len(made) <= round_ % 4 and time.monotonic() < until:
                    file.seek(0)
                    made = file.read().split()
            server.kill()
            server.wait()
            assert len(made) > round_ % 4, "it made no workers"
            wait_until(lambda made=made: not any(alive(pid) for pid in made if
                                                 process_name(pid) != "relay-forward"),
                       "its workers to end", 5)


# ---- what `ps` says -------------------------------------------------------------------


@behaviour()
def ps_shows_the_role_of_each_process():
    with tempfile.TemporaryDirectory(prefix="relay-usage-") as directory:
        os.chmod(directory, 0o777)
        database = os.path.join(directory, "usage.sqlite")
        chain, key = certificate(directory)
        os.chmod(directory, 0o777)
        options = [f"--usage-db={database}", f"--certfile={chain}", f"--keyfile={key}"]
        with Relay(options=options, environment={"SECRET": "swordfish" * 20}) as relay:
            make_pair(relay)
            wait_until(lambda: "relay-record" in map(process_name, of_relay(relay)), "the recorder")
            parts = {}
            for pid in of_relay(relay) + children(relay.process.pid):
                parts.setdefault(process_name(pid), set()).add(command_line(pid))
            server = " ".join(relay._command(None))
            assert parts == {
                "relay": {server},
                "relay-worker": {f"relay: worker ({relay.runtime})"},
                "relay-porch": {f"relay: porch ({relay.runtime})"},
                "relay-forward": {f"relay: forwarder ({relay.runtime})"},
                "relay-keeper": {f"relay: keeper of the certificate ({relay.runtime})"},
                "relay-records": {f"relay: keeper of the recorder ({relay.runtime})"},
                "relay-record": {f"relay: recorder ({relay.runtime})"},
            }, parts


@behaviour()
def ps_shows_the_role_of_a_forwarder_on_demand():
    with Relay("accept") as relay:
        pair = make_pair(relay)
        assert command_line(relay.forwarder()) == f"relay: forwarder ({relay.runtime})"
        exchange(*pair)


@behaviour()
def a_foreign_orphan_that_the_first_process_reaps_is_not_taken_for_a_failed_worker():
    if os.geteuid() != 0:
        raise Skip("a namespace of processes needs root")
    with Relay(under=["unshare", "--pid", "--fork"]) as relay:
        first = children(relay.process.pid)[0]
        before = relay.log()
        # In the namespace: a child that is left behind by its parent, and fails.
        subprocess.run(["nsenter", f"--target={first}", "--pid", "sh", "-c", "(sleep 0.2; exit 3) &"],
                       check=True)
        orphan = wait_until(lambda: [pid for pid in children(first)
                                     if process_name(pid) == "sh"], "the orphan")
        wait_until(lambda: not alive(orphan[0]), "it to end")
        exchange(*make_pair(relay))
        wait_until(lambda: not os.path.exists(f"/proc/{orphan[0]}"), "it to be reaped")
        assert relay.log() == before, relay.log()
        os.kill(first, signal.SIGTERM)


if __name__ == "__main__":
    run()
