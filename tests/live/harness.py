"""What the live tests stand on: the real relay, started in each of the ways it can be, raw transit
clients, and a runner that prints one line per behaviour.

Every process that is started here is ended here, by its id."""

import contextlib
import hashlib
import json
import os
import pwd
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RELAY = os.path.abspath(os.environ.get("RELAY", os.path.join(TOP, "build", "relay")))
PEERS = os.path.join(TOP, "build", "peers")  # xinetd and inetd, unpacked and not installed
PATIENCE = 20.0  # seconds until something that should happen is said not to


class Skip(Exception):
    """This cannot be tested here, for the reason given."""


def wait_until(condition, what, patience=PATIENCE):
    """Waits for condition() to be true; its value is returned."""
    until = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > until:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.01)


def wait_until_still(measure, what, seconds=0.5):
    """Waits until measure() has had the same value for so long, and not 0; that is returned."""
    last = since = None

    def is_still():
        nonlocal last, since
        value, now = measure(), time.monotonic()
        if value != last or not value:
            last, since = value, now
        return now - since > seconds

    wait_until(is_still, f"{what} to stand still", patience=3 * PATIENCE)
    return last


claims = []  # on ports, for as long as this process lives


def free_port():
    """A port that the kernel gives to no outgoing connection, and that no other test takes."""
    while True:
        port = random.randrange(15000, 32000)
        claim = socket.socket(socket.AF_UNIX)
        with socket.socket() as probe:
            try:
                claim.bind(f"\0relay-test-port-{port}")
                probe.bind(("127.0.0.1", port))
            except OSError:
                claim.close()
                continue
        claims.append(claim)
        return port


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descriptors(pid):
    return os.listdir(f"/proc/{pid}/fd")


def resident(pid):
    """How many bytes of memory a process has, shared ones included."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def private_memory(pid):
    """How many bytes of memory are this process's alone."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return 1024 * sum(int(text.split()[1]) for text in file if text.startswith("Private_"))


# Runs the relay as the user of the test, who may change its limits.
OWN_USER = ["--user=root"] if os.geteuid() == 0 else []


@contextlib.contextmanager
def limited(pid, what, limit):
    """A process with another limit, for a while."""
    before = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, what, before)


def without_memory(pid):
    """A process that gets no more from the kernel, for a while."""
    if "ASAN_OPTIONS" in os.environ:
        raise Skip("AddressSanitizer ends a process that finds no memory")
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return limited(pid, resource.RLIMIT_AS,
                       int(file.read().split()[0]) * resource.getpagesize())


def children(pid):
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="ascii", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(entry))
    return found


def process_name(pid):
    try:
        with open(f"/proc/{pid}/comm", encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


# ---- the relay ------------------------------------------------------------------------


class Relay:
    """A relay that runs. how: one of MODES. options go to every role. under: a program with its
    arguments that executes what starts the relay."""

    MODES = ("serve", "activate", "accept", "inetd", "xinetd")

    def __init__(self, how="serve", options=(), pass_fds=(), environment=None, address=None,
                 limit=None, under=()):
        self.how = how
        self.prepare(options)
        self.environment = dict(os.environ, **(environment or {}))
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [*under, *self._command(address)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=pass_fds, env=self.environment,
                preexec_fn=limit and (lambda: resource.setrlimit(
                    resource.RLIMIT_NOFILE, (limit, limit))))
        try:
            if address is None:
                wait_until(self._answers, f"the relay to listen ({how}): {self.log()}")
        except BaseException:
            self.stop()
            raise

    def prepare(self, options=()):
        """Where it is to run."""
        self.process = None
        self.directory = tempfile.mkdtemp(prefix="relay-test-")
        os.chmod(self.directory, 0o755)
        self.runtime = os.path.join(self.directory, "run")
        self.log_path = os.path.join(self.directory, "log")
        self.port = free_port()
        self.state = os.path.join(self.directory, "state")
        self.options = [f"--runtime-dir={self.runtime}", f"--state-dir={self.state}",
                        "--idle-timeout=2", *options]

    def _command(self, address):
        if self.how == "serve":
            listen = address or f"127.0.0.1:{self.port}"
            return [RELAY, "serve", f"--listen={listen}", *self.options]
        if self.how in ("activate", "accept"):
            tool = shutil.which("systemd-socket-activate")
            if tool is None:
                raise Skip("systemd-socket-activate is not installed")
            role = ["--accept", RELAY, "worker"] if self.how == "accept" else [RELAY, "serve"]
            return [tool, f"--listen=127.0.0.1:{self.port}", *role, *self.options]
        if self.how == "inetd":
            return self._inetd()
        return self._xinetd()

    def _peer(self, path):
        program = os.path.join(PEERS, path)
        if os.access(program, os.X_OK):
            return program
        raise Skip(f"{os.path.basename(path)} could not be had from Debian")

    def _write(self, name, text):
        path = os.path.join(self.directory, name)
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        return path

    def _inetd(self):
        program = self._peer("usr/sbin/inetd")
        if os.geteuid() != 0:
            raise Skip("inetd needs root")
        for directory in (self.runtime, self.state):
            os.mkdir(directory, 0o700)  # as tmpfiles would
            shutil.chown(directory, "nobody", "nogroup")
        # The user nobody may have no access to the directory in which relay was built.
        relay = shutil.copy(RELAY, os.path.join(self.directory, "relay"))
        arguments = " ".join(["relay", "worker", *self.options])
        config = self._write(
            "inetd.conf",
            f"127.0.0.1:{self.port} stream tcp nowait.10000 nobody {relay} {arguments}\n")
        # The path of its process id file is fixed, so it gets a /run of its own.
        script = 'mount -t tmpfs tmpfs /run && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, "sh", program, "-i", config]

    def _xinetd(self):
        program = self._peer("usr/sbin/xinetd")
        config = self._write("xinetd.conf", f"""
            defaults
            {{
                instances = 1000
                cps = 10000 1
            }}
            service relay
            {{
                type = UNLISTED
                port = {self.port}
                bind = 127.0.0.1
                socket_type = stream
                protocol = tcp
                wait = no
                user = {pwd.getpwuid(os.geteuid()).pw_name}
                server = {RELAY}
                server_args = worker {" ".join(self.options)}
                disable = no
            }}
            """)
        pid = os.path.join(self.directory, "xinetd.pid")
        return [program, "-dontfork", "-stayalive", "-f", config, "-pidfile", pid]

    def _answers(self):
        if self.process.poll() is not None:
            raise AssertionError(f"the relay ended ({self.how}): {self.log()}")
        if self.how == "serve":
            return f"listening on 127.0.0.1:{self.port}\n" in self.log()  # which it says last
        with open("/proc/net/tcp", encoding="ascii") as file:
            return f":{self.port:04X} 00000000:0000 0A" in file.read()

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def status(self):
        result = subprocess.run(
            [RELAY, "status", "--json", f"--runtime-dir={self.runtime}"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        return json.loads(result.stdout) if result.stdout else None  # of a dead relay, too

    def forwarder(self):
        status = self.status()
        pid = status["forwarder"] if status else 0
        return pid if pid and alive(pid) else 0

    def workers(self):
        return [pid for pid in children(self.process.pid) if process_name(pid) == "relay-worker"]

    def wait_for(self, patience=PATIENCE, **states):
        """Waits until the table counts what is asked for, as in waiting=2, joined=0."""
        seen = {}

        def matches():
            status = self.status()
            seen.clear()
            seen.update(status["states"] if status else {})
            seen["used"] = status["used"] if status else None
            seen["tokens"] = status["tokens"] if status else None
            return status and all(seen[name] == count for name, count in states.items())

        try:
            wait_until(matches, "the table", patience)
        except AssertionError:
            raise AssertionError(f"expected {states} in the table, found {seen}") from None

    def outcomes(self, protocol="transit"):
        return self.status()["protocols"][protocol]

    def wait_for_outcomes(self, protocol="transit", **counts):
        seen = {}

        def matches():
            seen.clear()
            seen.update(self.outcomes(protocol) if self.status() else {})
            return seen and all(seen[name] == count for name, count in counts.items())

        try:
            wait_until(matches, "the outcomes")
        except AssertionError:
            raise AssertionError(f"expected {counts}, found {seen}") from None

    def connect(self, patience=PATIENCE, source=None):
        return connect_to(self.port, source, patience)

    def kill_server(self):
        """Kills what was started. Its forwarder stays."""
        wait_until(self.forwarder, "a forwarder")
        self.process.kill()
        self.process.wait()

    def stop(self):
        """Ends it, and returns the exit status of what was started."""
        status = None
        if self.process is not None:
            if self.process.poll() is None:
                self.process.terminate()
            status = self.process.wait(PATIENCE)
        forwarder = self.forwarder() if os.path.isdir(self.runtime) else 0
        if forwarder:
            os.kill(forwarder, signal.SIGTERM)
            wait_until(lambda: not alive(forwarder), "the forwarder to end")
        shutil.rmtree(self.directory, ignore_errors=True)
        return status

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None and not issubclass(kind, Skip):
            sys.stdout.write("".join(f"#   log: {line}\n" for line in self.log().splitlines()[-20:]))
        self.stop()


# ---- clients --------------------------------------------------------------------------


def new_token():
    return os.urandom(32).hex().encode()


def new_side():
    return os.urandom(8).hex().encode()


def line(token, side=None):
    return b"please relay " + token + (b" for side " + side if side else b"") + b"\n"


class Client:
    """A raw connection to the relay. preface: what it sends before anything else. source: the IP
    address that it has; None: any."""

    def __init__(self, address, patience=PATIENCE, preface=b"", source=None):
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family)
        self.socket.settimeout(patience)
        if source is not None:
            self.socket.bind((source, 0))
        self.socket.connect(address)
        self.socket.sendall(preface)

    def send(self, data):
        self.socket.sendall(data)
        return self

    def receive_some(self, size):
        """The bytes that are there, at most `size`; none at the end of file."""
        try:
            return self.socket.recv(size)
        except ConnectionResetError:
            return b""

    def receive(self, size):
        """Exactly `size` bytes, or what came before the end of file."""
        data = b""
        while len(data) < size:
            part = self.receive_some(size - len(data))
            if not part:
                break
            data += part
        return data

    def expect(self, data):
        got = self.receive(len(data))
        assert got == data, f"expected {data!r}, got {got!r}"
        return self

    def expect_end(self):
        got = self.receive(1)
        assert got == b"", f"expected the end, got {got!r}"

    def expect_silence(self, seconds=0.0):
        """Nothing has come by now, or comes within so many seconds. With 0 seconds, call it behind
        something that comes later than what must not come."""
        self.socket.settimeout(seconds)
        try:
            got = self.socket.recv(1)
            raise AssertionError(f"expected nothing, got {got!r}")
        except (BlockingIOError, TimeoutError):
            pass
        finally:
            self.socket.settimeout(PATIENCE)

    def finish(self):
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self):
        self.socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.socket.close()

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.socket.close()


def connect_to(port, source=None, patience=PATIENCE):
    return Client(("127.0.0.1", port), patience, source=source)


def close_all(*clients):
    for client in clients:
        client.close()


def meet(first, second, sided=True):
    """Has two clients meet, which then have read their `ok`."""
    token = new_token()
    for client in (first, second):
        client.send(line(token, new_side() if sided else None))
    for client in (first, second):
        client.expect(b"ok\n")
    return first, second


def make_pair(relay, sided=True, patience=PATIENCE):
    return meet(relay.connect(patience), relay.connect(patience), sided)


def narrow(client, size=4096):
    """Takes little from the network that it does not read."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    return client


def send_until_blocked(client, data):
    """Sends the same bytes over and over, until no more are taken. Returns how many bytes were sent."""
    client.socket.settimeout(0.5)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while True:
            sent += client.socket.send(data)
    return sent


def exchange(first, second, size=1000):
    """Bytes both ways, compared."""
    for sender, receiver in ((first, second), (second, first)):
        data = os.urandom(size)
        sender.send(data)
        receiver.expect(data)


def can_pair(relay, patience=5):
    """Whether two clients meet soon. If one of them is lost, the other waits in vain."""
    try:
        first, second = make_pair(relay, patience=patience)
        with first, second:
            exchange(first, second)
        return True
    except (AssertionError, OSError):
        return False


def transfer(sender, receiver, size):
    """`size` bytes one way, by hash, and then the end of file."""
    block = os.urandom(1 << 20)
    sent, received = hashlib.sha256(), hashlib.sha256()

    def send():
        left = size
        while left > 0:
            part = block[:left]
            sent.update(part)
            sender.send(part)
            left -= len(part)
        sender.finish()

    thread = threading.Thread(target=send)
    thread.start()
    count = 0
    while True:
        part = receiver.socket.recv(1 << 20)
        if not part:
            break
        received.update(part)
        count += len(part)
    thread.join()
    assert count == size, f"{count} of {size} bytes arrived"
    assert sent.digest() == received.digest(), "the bytes differ"


# ---- the runner -----------------------------------------------------------------------

registered = []


def behaviour(*variants):
    """Marks a test. Its name, with spaces, is the statement; it runs once per variant."""
    def register(function):
        for variant in variants or (None,):
            registered.append((function, variant))
        return function
    return register


def run():
    """Runs what was registered (or what matches argv) and exits: 0, or 1 if anything failed."""
    wanted = re.compile(sys.argv[1] if len(sys.argv) > 1 else "")
    passed = failed = skipped = 0
    for function, variant in registered:
        name = function.__name__.replace("_", " ") + (f" [{variant}]" if variant else "")
        if not wanted.search(name):
            continue
        try:
            if variant is None:
                function()
            else:
                function(variant)
            print(f"ok - {name}", flush=True)
            passed += 1
        except Skip as reason:
            print(f"skip - {name}: {reason}", flush=True)
            skipped += 1
        except BaseException as error:  # pylint: disable=broad-except
            print(f"not ok - {name}: {error}", flush=True)
            for text in traceback.format_exc().splitlines():
                print(f"#   {text}", flush=True)
            failed += 1
            if isinstance(error, KeyboardInterrupt):
                break
    print(f"# {passed} passed, {failed} failed, {skipped} skipped", flush=True)
    sys.exit(1 if failed else 0)
