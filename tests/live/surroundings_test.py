"""Relay runs where something that it uses elsewhere is missing or strange, or ends at once with the
real reason."""

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile

from harness import (PATIENCE, RELAY, Client, Skip, alive, behaviour, children, exchange, free_port,
                     line, new_side, new_token, run, wait_until)
from websocket_client import Response, frame, upgrade_request


def removed(path):
    """The recorder comes last, and may still write there."""
    shutil.rmtree(path, ignore_errors=True)
    return not os.path.exists(path)


class Placed:
    """`relay serve` in surroundings that `before`, a command, makes for it."""

    def __init__(self, before=(), *options, address="127.0.0.1", runtime=None, cwd=None, ready=None):
        if os.geteuid() != 0:
            raise Skip("this needs root")
        self.directory = tempfile.mkdtemp(prefix="relay-placed-")
        os.chmod(self.directory, 0o755)
        self.port = free_port()
        self.log_path = os.path.join(self.directory, "log")
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [*before, RELAY, "serve", f"--listen={address}:{self.port}",
                 f"--runtime-dir={runtime or self.directory + '/run'}",
                 f"--state-dir={self.directory}/state", *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd or self.directory)
        ready = ready or (lambda: "listening on" in self.log())
        wait_until(lambda: self.process.poll() is not None or ready(), "the relay to begin or to end")

    def log(self):
        with open(self.log_path, encoding="utf-8") as file:
            return file.read()

    def connect(self):
        return Client(("127.0.0.1", self.port))

    def serves(self):
        assert self.process.poll() is None, self.log()
        token = new_token()
        pair = [self.connect().send(line(token, new_side())) for _ in range(2)]
        for client in pair:
            client.expect(b"ok\n")
        exchange(*pair)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.process.terminate()
        self.process.wait(PATIENCE)
        wait_until(lambda: removed(self.directory), "the recorder to end")


class Single:
    """A directory in which `relay worker` serves one connection at a time, as inetd starts it, in
    surroundings that `before`, a command, makes for each."""

    def __init__(self, before=(), *options, runtime=None):
        if os.geteuid() != 0:
            raise Skip("this needs root")
        self.directory = tempfile.mkdtemp(prefix="relay-single-")
        os.chmod(self.directory, 0o755)
        self.runtime = runtime or os.path.join(self.directory, "run")
        self.command = [*before, RELAY, "worker", f"--runtime-dir={self.runtime}",
                        f"--state-dir={self.directory}/state", *options]
        self.workers = []

    def connect(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = Client(listener.getsockname())
            connection, _ = listener.accept()
        with connection, open(os.path.join(self.directory, "log"), "ab") as log:
            self.workers.append(subprocess.Popen(
                self.command, stdin=connection, stdout=connection, stderr=log,
                cwd=self.directory))
        return client

    def log(self):
        with open(os.path.join(self.directory, "log"), encoding="utf-8") as file:
            return file.read()

    def serves(self):
        token = new_token()
        pair = [self.connect().send(line(token, new_side())) for _ in range(2)]
        for client in pair:
            got = client.receive(3)
            assert got == b"ok\n", (got, self.log())
        exchange(*pair)

    def forwarder(self):
        path = os.path.join(self.directory, self.runtime)
        result = subprocess.run([RELAY, "status", "--json", f"--runtime-dir={path}"],
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
        pid = json.loads(result.stdout)["forwarder"] if result.stdout else 0
        return pid if pid and alive(pid) else 0

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        for worker in self.workers:
            worker.terminate()
            worker.wait(PATIENCE)
        forwarder = self.forwarder()
        if forwarder:
            os.kill(forwarder, signal.SIGTERM)
            wait_until(lambda: not alive(forwarder), "the forwarder to end")
        wait_until(lambda: removed(self.directory), "the recorder to end")


def without(*calls):
    """A command that runs another where these system calls fail."""
    return [os.path.join(os.path.dirname(__file__), "without.py"), *calls, "--"]


def memory(pid):
    """All that a process has in its memory."""
    with open(f"/proc/{pid}/maps", encoding="ascii") as maps, open(f"/proc/{pid}/mem", "rb", 0) as file:
        for area in maps:
            places, permissions, *_ = area.split()
            if permissions[0] != "r" or "[v" in area:  # the kernel's own
                continue
            start, end = (int(place, 16) for place in places.split("-"))
            with contextlib.suppress(OSError):
                file.seek(start)
                yield file.read(end - start)


def mounted(script):
    """A command that runs another in a mount namespace of its own, after a script."""
    return ["unshare", "--mount", "sh", "-c", f'{script} && exec "$@"', "sh"]


@behaviour()
def a_name_that_stands_for_an_address_twice_is_listened_on_once():
    with tempfile.NamedTemporaryFile("w") as hosts:
        hosts.write("127.0.0.1 localhost\n127.0.0.1 here localhost\n")
        hosts.flush()
        with Placed(mounted(f"mount --bind {hosts.name} /etc/hosts"), address="localhost") as relay:
            relay.serves()


@behaviour()
def an_address_that_is_not_there_yet_is_listened_on_and_serves_once_it_is():
    script = 'ip link set lo up && exec "$@"'
    with Placed(["unshare", "--net", "sh", "-c", script, "sh"], address="192.0.2.1") as relay:
        assert "this machine has no address" in relay.log(), relay.log()
        inside = ["nsenter", f"--net=/proc/{relay.process.pid}/ns/net"]
        subprocess.run([*inside, "ip", "address", "add", "192.0.2.1/32", "dev", "lo"], check=True)
        ask = (f"import socket; s = socket.create_connection(('192.0.2.1', {relay.port}), 10); "
               "s.sendall(b'GET /healthz HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'); print(s.recv(100))")
        answer = subprocess.run([*inside, "python3", "-c", ask], stdout=subprocess.PIPE, check=True)
        assert b"200" in answer.stdout, answer


@behaviour("no capabilities", "no capabilities, --user=root", "one user", "one user, --user=root")
def root_that_cannot_become_another_user_serves(how):
    before = (["unshare", "--map-root-user"] if how.startswith("one user")
              else ["setpriv", "--bounding-set=-all", "--inh-caps=-all"])
    with Placed(before, *(["--user=root"] if "=" in how else [])) as relay:
        relay.serves()
        for pid in [relay.process.pid, *children(relay.process.pid)]:
            with open(f"/proc/{pid}/status", encoding="ascii") as file:
                assert "CapEff:\t0000000000000000\n" in file.read(), pid


@behaviour()
def root_that_cannot_become_the_given_user_says_so():
    with Placed(["unshare", "--map-root-user"], "--user=nobody") as relay:
        assert relay.process.wait(PATIENCE) == 1
        assert "cannot" in relay.log(), relay.log()


@behaviour("nobody's", "no one's")
def a_user_may_be_a_number(whose):
    with tempfile.TemporaryDirectory(prefix="relay-user-") as directory:
        os.chmod(directory, 0o777)
        number = 65534 if whose == "nobody's" else 31234
        with Placed([], f"--user={number}", runtime=os.path.join(directory, "run")) as relay:
            relay.serves()
            assert os.stat(f"/proc/{relay.process.pid}").st_uid in (0, number)
            with open(f"/proc/{relay.process.pid}/status", encoding="ascii") as file:
                assert f"Uid:\t{number}\t{number}\t{number}\t{number}\n" in file.read()


@behaviour()
def a_user_that_does_not_exist_is_named():
    with Placed([], "--user=12x") as relay:
        assert relay.process.wait(PATIENCE) == 1
        assert "there is no user 12x" in relay.log(), relay.log()


@behaviour(*(f"{how}, {missing}" for how in ("serve", "worker") for missing in ("/proc", "/dev")))
def it_serves_where_a_file_system_of_the_kernel_is_missing(how):
    how, missing = how.split(", ")
    with (Placed if how == "serve" else Single)(mounted(f"mount -t tmpfs tmpfs {missing}")) as relay:
        relay.serves()


@behaviour()
def a_forwarder_that_a_worker_starts_has_no_descriptor_of_that_worker():
    with Single() as relay:
        relay.serves()
        forwarder = relay.forwarder()
        held = [os.readlink(f"/proc/{forwarder}/fd/{number}") for number in range(3)]
        assert held == ["/dev/null", "/dev/null", os.path.join(relay.directory, "log")], held
        assert os.readlink(f"/proc/{forwarder}/cwd") == "/"
        assert os.getsid(forwarder) == forwarder


@behaviour()
def nor_has_it_the_relays_private_key_in_its_memory():
    if "ASAN_OPTIONS" in os.environ:
        raise Skip("AddressSanitizer maps too much of it")
    with Single() as relay:
        relay.serves()
        with open(f"{relay.directory}/state/relay.ident", encoding="ascii") as file:
            key = base64.urlsafe_b64decode(json.load(file)["privateKey"] + "=")
        assert not any(key in area for area in memory(relay.forwarder()))


@behaviour("serve", "worker")
def relative_names_are_of_the_directory_in_which_relay_was_started(how):
    names = ("--state-dir=state", "--usage-db=usage.sqlite")
    with (Placed if how == "serve" else Single)((), *names, runtime="run") as relay:
        os.chmod(relay.directory, 0o777)  # for the database
        relay.serves()
        for name in ("run/table", "state/relay.ident", "usage.sqlite"):
            path = os.path.join(relay.directory, name)
            wait_until(lambda path=path: os.path.exists(path), path)


SECCOMP = {"no kernel's": ["seccomp=ENOSYS", "prctl:22=EINVAL"],  # 22: PR_SET_SECCOMP
           "a container without": ["seccomp=EPERM", "prctl:22=EPERM"]}


def without_seccomp(which):
    if "ASAN_OPTIONS" in os.environ:
        raise Skip("this build has no sandbox")
    return without(*SECCOMP[which])


@behaviour(*SECCOMP)
def a_server_that_cannot_be_in_a_sandbox_says_so_instead_of_listening(which):
    with Placed(without_seccomp(which)) as relay:
        assert relay.process.wait(PATIENCE) == 1
        assert "cannot filter system calls" in relay.log(), relay.log()
        assert "listening" not in relay.log(), relay.log()


@behaviour(*SECCOMP)
def a_forwarder_and_the_check_say_so_too(which):
    for command, status in (("forward",), 1), (("serve", "--check"), 2), (("worker", "--check"), 2):
        with tempfile.TemporaryDirectory(prefix="relay-place-") as directory:
            result = subprocess.run(
                [*without_seccomp(which), RELAY, *command, f"--runtime-dir={directory}/run",
                 f"--state-dir={directory}/state", "--listen=127.0.0.1:0"], timeout=PATIENCE,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
        assert result.returncode == status, result
        assert b"cannot filter system calls" in result.stderr, result


@behaviour(*SECCOMP)
def a_worker_that_cannot_be_in_a_sandbox_says_so_at_once_and_makes_no_forwarder(which):
    with Single(without_seccomp(which), "--handshake-timeout=600") as relay:
        relay.connect().expect_end()
        assert relay.workers[0].wait(PATIENCE) == 1
        assert "cannot filter system calls" in relay.log(), relay.log()
        assert relay.forwarder() == 0


@behaviour("serve", "worker")
def it_serves_without_a_sandbox_if_it_is_told_to(how):
    before = without_seccomp("no kernel's")
    with (Placed if how == "serve" else Single)(before, "--no-sandbox") as relay:
        relay.serves()
        assert "system calls are not filtered" in relay.log(), relay.log()


@behaviour(*(f"{command}, {limit}" for command in ("serve", "forward", "worker")
             for limit in (8, 16, 32, 63)))
def a_limit_on_descriptors_that_is_too_small_to_serve_is_the_reason_to_end(how):
    command, limit = how.split(", ")
    left, right = socket.socketpair()
    with left, right, tempfile.TemporaryDirectory(prefix="relay-place-") as directory:
        result = subprocess.run(
            ["prlimit", f"--nofile={limit}", RELAY, command, f"--runtime-dir={directory}/run",
             f"--state-dir={directory}/state", *(["--listen=127.0.0.1:0"] if command == "serve" else [])],
            stdin=right if command == "worker" else subprocess.DEVNULL, timeout=PATIENCE,
            stderr=subprocess.PIPE, check=False)
    assert result.returncode == 1, result
    assert result.stderr.count(b"\n") == 1, result
    assert f"a limit of {limit} descriptors is too small".encode() in result.stderr, result


@behaviour()
def the_check_says_that_there_is_no_sandbox():
    with tempfile.TemporaryDirectory(prefix="relay-place-") as directory:
        result = subprocess.run(
            ["prlimit", "--nofile=32", RELAY, "serve", "--check", "--listen=127.0.0.1:0",
             f"--runtime-dir={directory}/run", f"--state-dir={directory}/state"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    assert result.returncode == 2, result
    assert b"a limit of 32 descriptors is too small" in result.stderr, result


@behaviour("serve", "worker")
def with_few_descriptors_it_serves(how):
    with (Placed if how == "serve" else Single)(["prlimit", "--nofile=64"]) as relay:
        for _ in range(5):
            relay.serves()


@behaviour(*(f"{how}, {given}" for how in ("serve", "worker")
             for given in ("the runtime directory", "both directories")))
def it_serves_in_a_root_that_is_read_only_but_for_what_is_given_to_it(how):
    how, given = how.split(", ")
    with tempfile.TemporaryDirectory(prefix="relay-given-") as top:
        os.chmod(top, 0o755)
        os.mkdir(f"{top}/given")
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", f"{top}/given"], check=True)
        names = ["run", "state"] if given == "both directories" else ["run"]
        for name in names:
            os.mkdir(f"{top}/given/{name}")
        place = f"{top}/given/state" if "state" in names else f"{top}/state"
        try:
            with (Placed if how == "serve" else Single)(
                    mounted(f"mount -o remount,bind,ro / && ! touch {top}/x 2>&-"),
                    f"--state-dir={place}", runtime=f"{top}/given/run") as relay:
                relay.serves()
                made = ("made the identity" if "state" in names
                        else f"cannot make the state directory {place}: Read-only")
                assert relay.log().count(made) == 1, relay.log()
        finally:
            subprocess.run(["umount", f"{top}/given"], check=True)


@behaviour("a directory of others", "a directory that others may write to")
def a_directory_that_is_not_the_relays_alone_is_not_given_to_its_user(which):
    with tempfile.TemporaryDirectory(prefix="relay-given-") as top:
        os.chmod(top, 0o755)
        os.mkdir(f"{top}/run")
        if which == "a directory of others":
            os.mkdir(f"{top}/run/other")
        else:
            os.chmod(f"{top}/run", 0o777)
        with Placed(runtime=f"{top}/run") as relay:
            assert relay.process.wait(PATIENCE) == 1
            assert os.stat(f"{top}/run").st_uid == 0
            assert f"{top}/run" in relay.log(), relay.log()


def with_user(directory):
    """A command that runs another where there is, or is not, a user relay."""
    with open("/etc/passwd", encoding="utf-8") as file:
        users = "".join(entry for entry in file if not entry.startswith("relay:"))
    for name, own in ("without", ""), ("with", "relay:x:31234:31234::/nonexistent:/bin/false\n"):
        with open(f"{directory}/{name}", "w", encoding="utf-8") as file:
            file.write(users + own)
    return [mounted(f"mount --bind {directory}/{name} /etc/passwd") for name in ("without", "with")]


@behaviour("serve", "worker")
def a_user_that_is_made_later_gets_the_directories_that_were_nobodys(how):
    with tempfile.TemporaryDirectory(prefix="relay-later-") as top:
        os.chmod(top, 0o755)
        identities = []
        for before, uid in zip(with_user(top), (65534, 31234)):
            with (Placed if how == "serve" else Single)(
                    before, f"--state-dir={top}/state", runtime=f"{top}/run") as relay:
                relay.serves()
                with open(f"{top}/state/relay.ident", encoding="ascii") as file:
                    identities.append(file.read())
                for name in ("run", "run/table", "state", "state/relay.ident"):
                    assert os.stat(f"{top}/{name}").st_uid == uid, name
                assert "cannot" not in relay.log(), relay.log()
        assert identities[0] == identities[1]


@behaviour()
def pairs_go_on_when_the_user_is_made_later_and_its_server_finds_the_forwarder_of_nobody():
    with tempfile.TemporaryDirectory(prefix="relay-later-") as top:
        os.chmod(top, 0o755)
        before, after = with_user(top)
        with Single(before, f"--state-dir={top}/state", runtime=f"{top}/run") as relay:
            token = new_token()
            first = relay.connect().send(line(token, new_side()))
            forwarder = wait_until(relay.forwarder, "a forwarder")
            relay.workers[0].wait(PATIENCE)
            with Single(after, f"--state-dir={top}/state", runtime=f"{top}/run") as later:
                second = later.connect().send(line(token, new_side()))
                for client in (first, second):
                    client.expect(b"ok\n")
                exchange(first, second)
                assert later.forwarder() == forwarder


@behaviour("::ffff:127.0.0.1", "::ffff:127.0.0.0/104")
def a_trusted_proxy_may_be_given_as_a_mapped_address(network):
    with Placed((), f"--trusted-proxy={network}") as relay:
        token = new_token()
        pair = [relay.connect().send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + line(token, new_side()))
                for _ in range(2)]
        for client in pair:
            client.expect(b"ok\n")
        exchange(*pair)
        relay.connect().send(line(token, new_side())).expect_end()


@behaviour("root", "another")
def a_fault_that_all_workers_meet_is_logged_once_and_not_for_each_connection(user):
    before = [] if user == "root" else ["setpriv", "--reuid=31234", "--regid=31234", "--clear-groups"]
    with Single(before, "--state-dir=/dev/null/state", "--certfile=/dev/null/cert") as relay:
        os.chmod(relay.directory, 0o777)
        for _ in range(3):
            relay.serves()
        said = relay.log().splitlines()
        for reason in ("cannot make the state directory /dev/null/state: Not a directory",
                       "cannot read /dev/null/cert"):
            assert sum(reason in text for text in said) == 1, said
        assert len(said) == 3, said  # and that others are served


POORER = {"no rename that spares": ["renameat2=EINVAL"],
          "no hard links either": ["renameat2=EINVAL", "link=EPERM", "linkat=EPERM"],
          "no reserving": ["fallocate=EOPNOTSUPP"]}


@behaviour(*(f"{how}, {which}" for how in ("serve", "worker") for which in POORER))
def it_serves_on_a_file_system_that_lacks_something(how):
    how, which = how.split(", ")
    with (Placed if how == "serve" else Single)(without(*POORER[which])) as relay:
        relay.serves()
        assert "made the identity" in relay.log(), relay.log()


@behaviour(*POORER)
def files_are_made_there_and_never_in_the_place_of_another(which):
    with tempfile.TemporaryDirectory(prefix="relay-file-") as directory:
        make = [*without(*POORER[which]), RELAY, "gen-ident", f"--output={directory}/ident"]
        subprocess.run(make, check=True)
        with open(f"{directory}/ident", encoding="ascii") as file:
            first = file.read()
        again = subprocess.run(make, stderr=subprocess.PIPE, check=False)
        assert again.returncode == 1 and b"exists" in again.stderr, again
        with open(f"{directory}/ident", encoding="ascii") as file:
            assert file.read() == first != ""
        assert os.listdir(directory) == ["ident"]


class Syslog:
    """The syslog daemon of a /dev of its own, into which `before` puts a command."""

    def __init__(self, place):
        self.path = os.path.join(place, "syslog")
        self.lines = []
        devices = " ".join(("null", "zero", "random", "urandom"))
        self.before = mounted(
            f"mkdir -p {place}/dev && mount -t tmpfs tmpfs {place}/dev && ln -s {self.path} {place}/dev/log && "
            f"for name in {devices}; do touch {place}/dev/$name && "
            f"mount --bind /dev/$name {place}/dev/$name; done && mount --rbind {place}/dev /dev")
        self.start()

    def start(self):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.setblocking(False)
        os.chmod(self.path, 0o666)

    def start_again(self):
        self.socket.close()
        os.unlink(self.path)
        self.start()

    def has(self, words):
        with contextlib.suppress(BlockingIOError):
            while True:
                self.lines.append(self.socket.recv(4096).decode())
        return any(words in text for text in self.lines)


@contextlib.contextmanager
def syslog():
    with tempfile.TemporaryDirectory(prefix="relay-syslog-") as place:
        os.chmod(place, 0o755)
        daemon = Syslog(place)
        with daemon.socket:
            yield daemon


def started_by_inetd(command, error):
    """What the client reads of a program that is started for it, and the program's exit status.
    error: what inetd has made of its standard error."""
    client, connection = socket.socketpair()
    client.settimeout(PATIENCE)
    with client:
        with connection:
            process = subprocess.Popen(
                ["sh", "-c", f'exec "$@" {error}', "sh", *command], stdin=connection,
                stdout=connection, stderr=connection)
        read = b""
        while part := client.recv(1000):
            read += part
        return read, process.wait(PATIENCE)


@behaviour("", "2>&-", "2>/dev/null", "1>/dev/null 2>&1", "1>&- 2>&-")
def a_wrong_option_in_a_line_of_inetd_is_in_the_syslog_and_not_in_the_clients_stream(error):
    for arguments in ["worker", "--no-such-option"], ["--wait-timeout=never"], ["no-such-role"]:
        with syslog() as daemon:
            command = [*daemon.before, RELAY, *arguments]
            assert started_by_inetd(command, error) == (b"", 2)
            assert daemon.has("relay["), daemon.lines
            assert daemon.has(arguments[-1].partition("=")[0].lstrip("-")), daemon.lines


@behaviour()
def a_wrong_option_in_a_line_of_inetd_is_said_once_for_many_connections():
    with syslog() as daemon, tempfile.TemporaryDirectory(prefix="relay-run-") as run_directory:
        os.chmod(run_directory, 0o755)
        own = [*daemon.before, *mounted(f"mount --bind {run_directory} /run && "
                                         "install -d -m 700 -o $(id -un relay 2>/dev/null || echo nobody) /run/relay")]
        for _ in range(5):
            assert started_by_inetd([*own, RELAY, "worker", "--no-such-option"], "") == (b"", 2)
        assert daemon.has("--no-such-option"), daemon.lines
        assert len(daemon.lines) == 1, daemon.lines


@behaviour()
def a_server_whose_standard_error_is_closed_logs_to_the_syslog():
    with syslog() as daemon:
        result = subprocess.run(
            ["sh", "-c", 'exec "$@" 2>&-', "sh", *daemon.before, RELAY, "serve", "--user=12x"],
            timeout=PATIENCE, check=False)
        assert result.returncode == 1, result
        assert daemon.has("there is no user 12x"), daemon.lines


@behaviour("serve", "worker")
def a_running_forwarder_goes_on_logging_after_syslogd_was_started_again(how):
    with syslog() as daemon:
        before = [*daemon.before, "env", "RELAY_LOG=syslog"]
        with (Placed(before, "--debug", ready=lambda: daemon.has("listening on"))
              if how == "serve" else Single(before, "--debug")) as relay:
            relay.serves()
            wait_until(lambda: daemon.has("handed over"), "the worker's line")
            for _ in range(2):
                daemon.start_again()
                daemon.lines.clear()
                with relay.connect() as client:
                    client.send(upgrade_request("/introduction/peer"))
                    assert Response(client).status == 101
                    client.send(frame(3, b"of no use"))
                    while client.receive_some(1000):
                        pass
                wait_until(lambda: daemon.has("closed a connection"), "the forwarder's line")


if __name__ == "__main__":
    run()
