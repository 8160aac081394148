"""relay under systemd, from the inside: run by systemd_test.py as a process of a system of its own,
which is thrown away afterwards."""

import contextlib
import fcntl
import os
import pwd
import re
import shutil
import socket
import ssl
import stat
import time

from harness import (TOP, Client, behaviour, can_pair, exchange, line, make_pair, narrow, new_side,
                     new_token, run, send_until_blocked, wait_until)
from magic_wormhole import send_a_file
from systemd_units import (KINDS, Installed, command, is_listened_on, no_address_is_logged_since,
                           nothing_has_failed, property_of, units)

@behaviour()
def make_install_puts_everything_in_its_place():
    command("make", "-C", TOP, "install", "prefix=/usr")
    user = pwd.getpwnam("relay")
    status = os.stat("/run/relay")
    assert stat.S_IMODE(status.st_mode) == 0o700 and status.st_uid == user.pw_uid, status
    units = ["relay.socket", "relay@.service", "relay-forward.socket", "relay-forward.service",
             "relay-prefork.socket", "relay-prefork.service", "relay-check.path",
             "relay-check.service", "relay-failed.service"]
    paths = [f"/etc/systemd/system/{unit}" for unit in units]
    text = command("systemd-analyze", "--man=no", "verify", *paths)
    about_ours = [warning for warning in text.splitlines() if "relay" in warning]
    assert not about_ours, about_ours
    for path in paths:
        with open(path, encoding="utf-8") as file:
            assert "@BINDIR@" not in file.read(), path


@behaviour(*KINDS)
def enabling_the_socket_is_all_it_takes(unit):
    with Installed(unit) as relay:
        exchange(*make_pair(relay))
        assert property_of("relay-forward.socket", "ActiveState") == "active"
        nothing_has_failed()


@behaviour(*KINDS)
def the_status_can_be_seen_before_the_first_client_but_not_by_every_user(unit):
    shutil.rmtree("/run/relay")
    command("systemd-tmpfiles", "--create", "relay.conf")
    command("systemctl", "restart", "relay-forward.socket")
    with Installed(unit):
        text = command("relay", "status")
        assert "no client has come yet" in text and "connections  0 of 65536" in text, text
    text = command("setpriv", "--reuid=65534", "--clear-groups", "relay", "status", check=False)
    assert "cannot look into /run/relay: only root and the user that relay runs as may" in text, text


@behaviour(*KINDS)
def no_process_of_it_is_root(unit):
    with Installed(unit) as relay:
        pair = make_pair(relay)
        silent = relay.connect()
        relay.wait_for(greeting=1)
        names = command("ps", "-eo", "user,args").splitlines()
        ours = [name for name in names if "/bin/relay " in name or " relay: " in name]
        assert len(ours) >= 2 and all(name.startswith("relay ") for name in ours), ours
        silent.close()
        exchange(*pair)


@behaviour(*KINDS)
def wormhole_sends_a_hundred_megabytes(unit):
    with Installed(unit) as relay:
        send_a_file(relay)
        relay.wait_for(used=0)


@behaviour(*KINDS)
def a_ticket_can_be_made_of_the_identity_that_it_made(unit):
    with Installed(unit) as relay:
        exchange(*make_pair(relay))
        status = os.stat("/var/lib/relay/relay.ident")
        assert stat.S_IMODE(status.st_mode) == 0o600, status
        assert status.st_uid == pwd.getpwnam("relay").pw_uid, status
        command("relay", "relay-ticket", "--address=h:1", f"--output=/tmp/{unit}.ticket")
        assert os.path.getsize(f"/tmp/{unit}.ticket") > 0
        os.unlink(f"/tmp/{unit}.ticket")


@behaviour(*KINDS)
def the_ticket_of_README_can_be_made_as_soon_as_the_socket_is_enabled(unit):
    with open(os.path.join(TOP, "README.md"), encoding="utf-8") as file:
        [text] = re.findall(r"^    sudo (relay relay-ticket [^#]*)", file.read(), re.MULTILINE)
    with contextlib.suppress(FileNotFoundError):
        os.unlink("/var/lib/relay/relay.ident")
    with Installed(unit) as relay:
        command("sh", "-c", f"cd /tmp && {text}")
        with open("/tmp/relay.relay", encoding="ascii") as file:
            ticket = file.read()
        os.unlink("/tmp/relay.relay")
        exchange(*make_pair(relay))
        command("relay", "relay-ticket", "--address=RELAY:4001", "--output=/tmp/later.relay")
        with open("/tmp/later.relay", encoding="ascii") as file:
            assert file.read() == ticket
        os.unlink("/tmp/later.relay")
        status = os.stat("/var/lib/relay/relay.ident")
        assert status.st_uid == pwd.getpwnam("relay").pw_uid, status
        assert stat.S_IMODE(status.st_mode) == 0o600, status


@behaviour(*KINDS)
def two_thousand_connections_leave_it_listening(unit):
    with Installed(unit) as relay:
        pair = make_pair(relay)
        flood = []
        since = time.time()
        started = time.monotonic()
        for _ in range(2000):
            flood.append(socket.create_connection(("127.0.0.1", relay.port)))
            if len(flood) >= 100:
                flood.pop(0).close()
        print(f"#   2000 connections in {time.monotonic() - started:.1f} s")
        for client in flood:
            client.close()
        relay.wait_for(used=2, patience=60)
        assert property_of(unit, "ActiveState") == "active"
        assert property_of(unit, "SubState") in ("listening", "running"), property_of(unit, "SubState")
        exchange(*pair)
        # relay.socket starts 128 workers at once for a source, and drops further clients from there.
        started = time.monotonic()
        wait_until(lambda: can_pair(relay), "a new pair", patience=60)
        print(f"#   the next pair {time.monotonic() - started:.1f} s later")
        nothing_has_failed()
        no_address_is_logged_since(since)


@behaviour(*KINDS)
def no_address_is_in_the_journal(unit):
    with Installed(unit) as relay:
        since = time.time()
        exchange(*make_pair(relay))
        with relay.connect() as client:
            client.send(b"nonsense\n").expect(b"bad handshake\n")
        relay.wait_for(used=0)
        no_address_is_logged_since(since)


@behaviour(*KINDS)
def a_forwarder_that_was_killed_is_started_again(unit):
    with Installed(unit) as relay:
        make_pair(relay)
        before = relay.forwarder()
        os.kill(before, 9)
        pair = make_pair(relay)
        exchange(*pair)
        assert relay.forwarder() != before
        nothing_has_failed()


@behaviour(*KINDS)
def every_service_tells_systemd_that_it_is_ready(unit):
    """systemd kills what has not said so in time, and all pairs with it."""
    starting = {"relay-forward.service", unit.replace(".socket", ".service")} - {"relay.service"}
    with Installed(unit) as relay:
        pair = make_pair(relay)
        for service in starting:
            wait_until(lambda: property_of(service, "ActiveState") == "active", f"active {service}")
            assert property_of(service, "StatusText") in ("Forwarding", "Serving")
        exchange(*pair)


@behaviour()
def a_forwarder_tells_systemd_that_it_stops():
    """It has pairs to part; meanwhile the service's manager knows what it is at."""
    with Installed("relay.socket") as relay:
        clients = make_pair(relay)
        send_until_blocked(narrow(clients[0]), bytes(1 << 16))  # what is held for the other takes time
        wait_until(lambda: property_of("relay-forward.service", "ActiveState") == "active", "it")
        os.kill(relay.forwarder(), 15)
        wait_until(lambda: property_of("relay-forward.service", "ActiveState") == "deactivating",
                   "the notice")
        command("systemctl", "stop", "relay-forward.service")


def remove_the_handoffs_socket():
    os.unlink("/run/relay/forward.sock")


def remove_the_directory():
    shutil.rmtree("/run/relay")


LOSSES = {"the socket for handoffs": remove_the_handoffs_socket, "the directory": remove_the_directory}


def is_healthy():
    """What /healthz says, to a client that is not patient."""
    try:
        with Client(("127.0.0.1", 4001), 5) as client:
            return client.send(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n").receive(12) == b"HTTP/1.1 200"
    except (AssertionError, OSError):
        return False


@behaviour(*[f"{unit}, {loss}" for unit in KINDS for loss in LOSSES])
def newcomers_are_served_and_pairs_go_on_after_the_loss_of(variant):
    unit, loss = variant.split(", ")
    with Installed(unit) as relay:
        since = time.time()
        pair = make_pair(relay)
        LOSSES[loss]()
        wait_until(lambda: can_pair(relay), "newcomers to be served", patience=30)
        for _ in range(3):
            assert can_pair(relay) and is_healthy()
            time.sleep(0.5)
        exchange(*pair)
        for client in pair:
            client.close()
        no_address_is_logged_since(since)
        # As an administrator may do then; a forwarder that was started meanwhile gives way.
        command("systemctl", "restart", "relay-forward.socket")
        wait_until(lambda: can_pair(relay), "newcomers to be served", patience=30)
        if unit == "relay-prefork.socket":
            command("systemctl", "restart", "relay-prefork.service")
        exchange(*make_pair(relay))
        wait_until(lambda: property_of("relay-forward.service", "ActiveState") == "active",
                   "the forwarder of systemd")
    stop_all()


@behaviour("relay-prefork.socket")
def a_directory_that_was_lost_while_there_was_no_client_leaves_no_trace(unit):
    with Installed(unit) as relay:
        exchange(*make_pair(relay))
        command("systemctl", "stop", "relay-forward.service")
        remove_the_directory()
        wait_until(lambda: can_pair(relay), "newcomers to be served")
        pair = make_pair(relay)
        assert property_of("relay-forward.service", "ActiveState") == "active"
        command("systemctl", "restart", "relay-prefork.service")
        exchange(*pair)
    stop_all()


@behaviour(*KINDS)
def a_socket_can_be_started_when_the_directory_is_missing(unit):
    """Whatever else runs yet."""
    with Installed(unit) as relay:
        exchange(*make_pair(relay))
        command("systemctl", "stop", unit, "relay-prefork.service")
        shutil.rmtree("/run/relay")
        command("systemctl", "start", unit)
        exchange(*make_pair(relay))
        status = os.stat("/run/relay")
        assert stat.S_IMODE(status.st_mode) == 0o700, status
        assert status.st_uid == pwd.getpwnam("relay").pw_uid, status
    stop_all()
    command("systemctl", "stop", "relay-forward.socket")
    shutil.rmtree("/run/relay")
    with Installed(unit) as relay:
        exchange(*make_pair(relay))
    stop_all()


@behaviour("relay-prefork.socket")
def pairs_outlive_a_restart_of_the_server(unit):
    with Installed(unit) as relay:
        pair = make_pair(relay)
        waiting = relay.connect().send(line(token := new_token(), new_side()))
        relay.wait_for(waiting=1)
        command("systemctl", "restart", "relay-prefork.service")
        exchange(*pair)
        relay.connect().send(line(token, new_side())).expect(b"ok\n")
        waiting.expect(b"ok\n")


@behaviour("relay-prefork.socket")
def a_server_that_stops_starts_no_forwarder(unit):
    with Installed(unit) as relay:
        exchange(*make_pair(relay))
        command("systemctl", "stop", "relay-forward.service")
        command("systemctl", "stop", unit, "relay-prefork.service")
        assert property_of("relay-forward.service", "ActiveState") == "inactive"


@behaviour("relay.socket")
def pairs_outlive_a_stop_of_the_socket(unit):
    with Installed(unit) as relay:
        pair = make_pair(relay)
        command("systemctl", "stop", unit)
        exchange(*pair)


@behaviour(*KINDS)
def restarting_the_socket_over_and_over_leaves_it_listening(unit):
    with Installed(unit) as relay:
        for _ in range(8):
            command("systemctl", "restart", unit)
        for _ in range(8):
            command("systemctl", "restart", "relay-forward.socket")
        exchange(*make_pair(relay))
        nothing_has_failed()


@behaviour(*KINDS)
def the_other_socket_takes_over_as_soon_as_it_is_enabled(unit):
    """Even from busy workers; and pairs live on."""
    other = KINDS[unit]
    with Installed(unit) as relay:
        pair = make_pair(relay)
        half = relay.connect().send(b"please")
        relay.wait_for(greeting=1)
        command("systemctl", "enable", "--now", other)
        assert property_of(other, "ActiveState") == "active"
        assert property_of(unit, "ActiveState") == "inactive"
        exchange(*make_pair(relay))
        exchange(*pair)
        half.close()
        command("systemctl", "enable", "--now", unit)
        exchange(*make_pair(relay))
        exchange(*pair)
        # Both are enabled now. At a boot, the same one always has the port.
        for _ in range(5):
            command("systemctl", "stop", unit, other)
            command("systemctl", "start", "sockets.target")
            wait_until(lambda: property_of("relay.socket", "ActiveState") == "active",
                       "what sockets.target does not wait for")
            assert property_of("relay-prefork.socket", "ActiveState") == "inactive"
        exchange(*make_pair(relay))
        command("systemctl", "disable", "--now", other)
        command("systemctl", "start", unit)
        nothing_has_failed()


@behaviour(*KINDS)
def the_sockets_change_places_as_the_manual_has_it_also_for_the_next_boot(unit):
    other = KINDS[unit]
    with Installed(unit) as relay:
        pair = make_pair(relay)
        command("systemctl", "disable", "--now", unit)
        command("systemctl", "enable", "--now", other)
        exchange(*make_pair(relay))
        exchange(*pair)
        command("systemctl", "stop", other, "relay-forward.socket")
        command("systemctl", "start", "sockets.target")
        wait_until(lambda: property_of(other, "ActiveState") == "active", "the other one")
        exchange(*make_pair(relay))
        command("systemctl", "disable", "--now", other)
        nothing_has_failed()


@contextlib.contextmanager
def options(text):
    write("/etc/default/relay", f'RELAY_OPTIONS="{text}"\n')
    try:
        yield
    finally:
        os.unlink("/etc/default/relay")


def stop_all():
    command("systemctl", "stop", *KINDS, "relay-prefork.service", "relay-forward.service",
            "relay-check.service")
    command("systemctl", "reset-failed")


def said(words, since, *journal_options):
    """How often the journal has it."""
    command("journalctl", "--sync")
    return command("journalctl", "--no-pager", "-o", "cat", f"--since=@{since:.6f}",
                   *journal_options).count(words)


def is_refused():
    """Whether a client is, by a connection that is closed or by none."""
    try:
        with Client(("127.0.0.1", 4001)) as client:
            return client.receive_some(1) == b""
    except OSError:
        return True


WRONG = {"--bogus": "unknown option --bogus",
         "--linger=x": 'bad value "x" for --linger',
         "--listen=:4002": "--listen=:4002 does not hold where systemd has the sockets"}


@behaviour(*KINDS)
def wrong_options_keep_the_socket_from_being_started_and_the_journal_says_why(unit):
    stop_all()
    for text, words in WRONG.items():
        since = time.time()
        with options(text):
            answer = command("systemctl", "start", unit, check=False)
            assert "failed" in answer, answer
            assert property_of(unit, "ActiveState") == "failed"
        assert said(words, since, f"--unit={unit}") == 1, command("journalctl", "-n", "30")
    stop_all()


@behaviour()
def workers_that_fail_after_a_change_of_options_log_why_once():
    with Installed("relay.socket") as relay:
        pair = make_pair(relay)
        since = time.time()
        with options("--bogus"):
            for _ in range(10):
                assert is_refused()
            # A check that an earlier test has caused may still keep others away, for a minute.
            wait_until(lambda: is_refused() and said("unknown option --bogus", since), "the reason", 90)
        wait_until(lambda: not units("relay@*"), "the workers to be gone")
        assert said("unknown option --bogus", since) == 1, command("journalctl", "-n", "50")
        no_address_is_logged_since(since)
        exchange(*make_pair(relay))  # needs nothing but the right options
        exchange(*pair)
    stop_all()


@contextlib.contextmanager
def drop_in(unit, text):
    path = f"/run/systemd/system/{unit}.d/broken.conf"
    write(path, text)
    command("systemctl", "daemon-reload")
    try:
        yield
    finally:
        shutil.rmtree(os.path.dirname(path))
        command("systemctl", "daemon-reload")


@contextlib.contextmanager
def without_the_program():
    os.rename("/usr/bin/relay", "/usr/bin/relay.away")
    try:
        yield
    finally:
        os.rename("/usr/bin/relay.away", "/usr/bin/relay")


@contextlib.contextmanager
def without_a_forwarder():
    """Another process has its lock, so workers wait for it in vain, and say so inside their sandbox."""
    command("systemctl", "stop", "relay-forward.service", "relay-forward.socket")
    with open("/run/relay/forward.lock", "rb") as lock, options("--handshake-timeout=1"):
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.unlink("/run/relay/forward.sock")
        yield
    command("systemctl", "start", "relay-forward.socket")


FAILURES = {
    "a credential is missing": (
        lambda: drop_in("relay@.service", "[Service]\nLoadCredential=key.pem:/none\n"),
        "(exit status 243, see systemd.exec(5))"),
    "the program is missing": (without_the_program, "/usr/bin/relay: not found"),
    "no forwarder can be reached": (without_a_forwarder, "(exit status 1, see systemd.exec(5))"),
}


@behaviour(*FAILURES)
def the_journal_says_why_workers_fail_whatever_the_reason_and_names_no_client(fault):
    failure, words = FAILURES[fault]
    with Installed("relay.socket") as relay:
        exchange(*make_pair(relay))
        relay.wait_for(used=0)
        since = time.time()
        with failure():
            assert is_refused()
            wait_until(lambda: said(words, since), f"the reason: {words}")
            for _ in range(5):
                assert is_refused()
        wait_until(lambda: not units("relay@*"), "the workers to be gone")
        assert said(words, since) == 1, command("journalctl", "-n", "50")
        no_address_is_logged_since(since)
        exchange(*make_pair(relay))
    stop_all()


@behaviour("relay-prefork.socket")
def another_number_of_connections_holds_as_the_manual_has_it(unit):
    with Installed(unit) as relay:
        pair = make_pair(relay)
        with options("--max-connections=100"):
            command("systemctl", "restart", "relay-prefork.service")
            exchange(*make_pair(relay))
            assert "of 65536" in command("relay", "status")
            os.unlink("/run/relay/table")
            exchange(*make_pair(relay))
            wait_until(lambda: "of 100\n" in command("relay", "status"), "the number")
            exchange(*pair)
    stop_all()
    os.unlink("/run/relay/table")


@behaviour()
def the_check_in_README_runs_as_the_units_user():
    with open(os.path.join(TOP, "README.md"), encoding="utf-8") as file:
        assert "`sudo -u relay relay serve --check OPTIONS`" in file.read()
    install_certificate("first")
    check = ("relay", "serve", "--check", f"--certfile={CERTFILE}", f"--keyfile={KEYFILE}")
    assert "Permission denied" not in command(*check, check=False)
    said_then = command("setpriv", "--reuid=relay", "--regid=relay", "--clear-groups", *check, check=False)
    assert f"cannot read {CERTFILE}: Permission denied" in said_then, said_then


CANNOT_START = {
    "a wrong option": (lambda: options("--bogus"), "unknown option --bogus"),
    "a credential is missing": (
        lambda: drop_in("relay-prefork.service", "[Service]\nLoadCredential=key.pem:/none\n"),
        "Failed to set up credentials"),
}


@behaviour(*CANNOT_START)
def a_server_that_cannot_start_becomes_a_failed_unit_after_some_attempts_and_logs_why(fault):
    failure, words = CANNOT_START[fault]
    with Installed("relay-prefork.socket") as relay:
        exchange(*make_pair(relay))
        since = time.time()
        with failure():
            answer = command("systemctl", "restart", "relay-prefork.service", check=False)
            assert "failed" in answer, answer
            with contextlib.suppress(OSError), Client(("127.0.0.1", 4001)) as client:
                client.send(b"please")
                wait_until(lambda: property_of("relay-prefork.socket", "ActiveState") == "failed",
                           "the socket to be closed", patience=40)
            assert is_refused()
            assert 1 <= said(words, since) <= 40, said(words, since)

        def serves_again():
            """Its limit holds for twenty seconds."""
            command("systemctl", "start", "relay-prefork.socket", check=False)
            return can_pair(relay)

        wait_until(serves_again, "service, once it is put right", patience=60)
    stop_all()


@behaviour(*KINDS)
def a_bad_certificate_or_identity_stops_no_other_protocol(unit):
    since = time.time()
    with options("--certfile=/etc/none.pem --idfile=/etc/none.ident"):
        with Installed(unit) as relay:
            for _ in range(3):
                exchange(*make_pair(relay))
            for words in ("cannot read /etc/none.pem", "cannot read the identity /etc/none.ident"):
                assert 1 <= said(words, since) <= 2, command("journalctl", "-n", "50")
        nothing_has_failed()


@behaviour(*KINDS)
def no_address_is_in_the_journal_when_something_fails(unit):
    with Installed(unit) as relay:
        exchange(*make_pair(relay))
        since = time.time()
        with without_the_program():
            if unit == "relay-prefork.socket":
                command("systemctl", "kill", "--signal=KILL", "relay-prefork.service")
            for _ in range(3):
                with contextlib.suppress(OSError), Client(("127.0.0.1", 4001), 0.3) as client:
                    client.send(b"please")
                    client.receive_some(1)
        command("systemctl", "stop", unit)
        for service in ("relay@.service", "relay-prefork.service"):
            write(f"/run/systemd/system/{service}.d/broken.conf", "[Service]\nReadOnlyPaths=/none\n")
        command("systemctl", "daemon-reload")
        command("systemctl", "start", unit)
        with contextlib.suppress(OSError), Client(("127.0.0.1", 4001), 0.5) as client:
            client.send(b"please")
            client.receive_some(1)
        for service in ("relay@.service", "relay-prefork.service"):
            shutil.rmtree(f"/run/systemd/system/{service}.d")
        command("systemctl", "stop", unit, "relay-forward.socket")
        command("systemctl", "mask", "--runtime", "relay-forward.socket")
        command("systemctl", "start", unit)
        with contextlib.suppress(OSError), Client(("127.0.0.1", 4001), 0.5) as client:
            client.send(b"please")
            client.receive_some(1)
        command("systemctl", "unmask", "--runtime", "relay-forward.socket")
        no_address_is_logged_since(since)
    stop_all()


@behaviour()
def options_come_from_one_line():
    write("/etc/default/relay",
          'RELAY_OPTIONS="--wait-timeout=1 --usage-db=/var/lib/relay/usage.sqlite"\n')
    try:
        for unit in KINDS:
            with Installed(unit) as relay:
                relay.connect().send(line(new_token())).expect_end()
        wait_until(lambda: os.path.exists("/var/lib/relay/usage.sqlite"), "the database")
    finally:
        os.unlink("/etc/default/relay")


# ---- TLS with a key that only root can read, as the manual has it ---------------------


def manual(pattern):
    """What relay(8) has in its examples."""
    with open(os.path.join(TOP, "man", "relay.8"), encoding="utf-8") as file:
        found = re.findall(pattern, file.read(), re.MULTILINE)
    assert found, f"the manual has no {pattern}"
    return found


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


OPTIONS = manual(r"^RELAY_OPTIONS=.*--certfile=.*\n")[0]
CREDENTIALS = manual(r"^\[Service\]\n(?:(?:Load|Set)Credential=.*\n)+")[0]
COPIES = "run-credentials-relay*"
QUIET = manual(r"^\[Mount\]\nLogLevelMax=.*\n")[0]
CERTFILE, KEYFILE = re.findall(r"LoadCredential=.*:(.*)", CREDENTIALS)
DROP_INS = {f"/etc/systemd/system/{unit}.d/relay.conf": text for unit, text in
            (("relay@.service", CREDENTIALS), ("relay-prefork.service", CREDENTIALS),
             ("run-credentials-.mount", QUIET))}


def install_certificate(name):
    """As a client of Let's Encrypt does it: in a directory that is root's alone."""
    directory = os.path.dirname(CERTFILE)
    os.makedirs(directory, exist_ok=True)
    os.chmod(directory, 0o700)
    command("openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt",
            "ec_paramgen_curve:prime256v1", "-days", "2", "-subj", f"/CN={name}", "-addext",
            "subjectAltName=DNS:relay.test", "-out", CERTFILE, "-keyout", KEYFILE)
    status = os.stat(KEYFILE)
    assert stat.S_IMODE(status.st_mode) == 0o600 and status.st_uid == 0, status


@contextlib.contextmanager
def certificate_of_the_manual(name):
    install_certificate(name)
    write("/etc/default/relay", OPTIONS)
    for path, text in DROP_INS.items():
        write(path, text)
    command("systemctl", "daemon-reload")
    try:
        yield
    finally:
        wait_until(lambda: not units("relay@*", COPIES), "all copies to be gone")
        os.unlink("/etc/default/relay")
        for path in DROP_INS:
            shutil.rmtree(os.path.dirname(path))
        command("systemctl", "daemon-reload")


class Secure(Client):
    """A connection in TLS, to a server that has the installed certificate."""

    def __init__(self, relay, certfile=CERTFILE):
        super().__init__(("127.0.0.1", relay.port))
        context = ssl.create_default_context(cafile=certfile)
        self.socket = context.wrap_socket(self.socket, server_hostname="relay.test")

    def name(self):
        return dict(part[0] for part in self.socket.getpeercert()["subject"])["commonName"]


def make_secure_pair(relay):
    token = new_token()
    pair = [Secure(relay).send(line(token, new_side())) for _ in range(2)]
    for client in pair:
        client.expect(b"ok\n")
    return pair


@behaviour(*KINDS)
def a_key_that_only_root_can_read_serves_TLS(unit):
    with certificate_of_the_manual("first"), Installed(unit) as relay:
        pair = make_secure_pair(relay)
        assert pair[0].name() == "first"
        exchange(*pair)
        exchange(*make_pair(relay))
        nothing_has_failed()


@behaviour(*KINDS)
def a_certificate_that_is_missing_at_the_start_stops_TLS_alone_and_that_is_logged(unit):
    with certificate_of_the_manual("first"):
        since = time.time()
        os.rename(CERTFILE, CERTFILE + ".away")
        with Installed(unit) as relay:
            exchange(*make_pair(relay))
            try:
                Secure(relay, CERTFILE + ".away").name()
                raise AssertionError("TLS is served")
            except OSError:
                pass
            wait_until(lambda: said("cannot use the certificate cert.pem with the key key.pem", since),
                       "the reason")
            assert said("Failed", since) == 0, command("journalctl", "-n", "50")
            os.rename(CERTFILE + ".away", CERTFILE)
            command("systemctl", "try-restart", "relay-prefork.service")
            exchange(*make_secure_pair(relay))
            exchange(*make_pair(relay))
            no_address_is_logged_since(since)


@behaviour("relay.socket")
def the_next_connection_gets_a_renewed_certificate(unit):
    with certificate_of_the_manual("first"), Installed(unit) as relay:
        pair = make_secure_pair(relay)
        install_certificate("second")
        with Secure(relay) as client:
            assert client.name() == "second"
        exchange(*pair)


@behaviour("relay.socket")
def no_address_is_in_the_journal_where_there_are_credentials(unit):
    with certificate_of_the_manual("first"), Installed(unit) as relay:
        since = time.time()
        with Secure(relay).send(b"please") as client:
            wait_until(lambda: units(COPIES), "its copy")
            client.send(b" what?\n").expect(b"bad handshake\n")
        wait_until(lambda: not units("relay@*", COPIES), "its copy to be gone")
        no_address_is_logged_since(since)


@behaviour("relay-prefork.socket")
def a_restart_takes_a_renewed_certificate_and_leaves_pairs_in_TLS_alone(unit):
    with certificate_of_the_manual("first"), Installed(unit) as relay:
        pair = make_secure_pair(relay)
        install_certificate("second")
        command("systemctl", "try-restart", "relay-prefork.service")
        renewed = make_secure_pair(relay)
        assert renewed[0].name() == "second"
        exchange(*renewed)
        exchange(*pair)


@behaviour()
def the_units_are_hardened():
    for unit in ("relay-forward.service", "relay-prefork.service", "relay@1.service"):
        text = command("systemd-analyze", "security", "--no-pager", unit, check=False)
        score = float(text.split("Overall exposure level for ")[1].split(":")[1].split()[0])
        print(f"#   {unit}: exposure {score}")
        assert score < 3, text


@behaviour()
def a_relay_of_another_prefix_can_be_removed_while_this_one_serves():
    with Installed("relay.socket") as relay:
        pair = make_pair(relay)
        command("make", "-C", TOP, "install", "prefix=/opt/other")
        exchange(*make_pair(relay))
        text = command("make", "-C", TOP, "uninstall", "prefix=/usr")
        assert "start another relay than /usr/bin/relay, and stay" in text, text
        exchange(*make_pair(relay))
        exchange(*pair)
        command("make", "-C", TOP, "install", "prefix=/usr")
        command("make", "-C", TOP, "uninstall", "prefix=/opt/other")
        assert not os.path.exists("/opt/other/bin/relay")
        exchange(*make_pair(relay))
        nothing_has_failed()


@behaviour(*KINDS)
def directories_that_were_nobodys_before_there_was_the_user_become_the_users(unit):
    """As relay by inetd has left it, where there was no such user."""
    with Installed(unit) as relay:
        exchange(*make_pair(relay))
        with open("/var/lib/relay/relay.ident", "rb") as file:
            identity = file.read()
    stop_all()
    command("systemctl", "stop", "relay-forward.socket")
    command("chown", "-R", "nobody:nogroup", "/run/relay", "/var/lib/relay")
    command("userdel", "relay")
    command("make", "-C", TOP, "install", "prefix=/usr")
    with Installed(unit) as relay:
        exchange(*make_pair(relay))
        nothing_has_failed()
        with open("/var/lib/relay/relay.ident", "rb") as file:
            assert file.read() == identity


@behaviour(*KINDS)
def make_uninstall_takes_everything_away(unit):
    relay = Installed(unit)
    exchange(*make_pair(relay))
    command("make", "-C", TOP, "uninstall", "prefix=/usr")
    left = command("find", "/usr/bin", "/usr/share/man/man8", "/usr/share/doc", "/etc/systemd/system",
                   "/usr/lib/sysusers.d", "/usr/lib/tmpfiles.d", "-name", "relay*")
    assert left.strip() == "", left
    assert not is_listened_on(4001), "somebody listens yet"
    assert units("relay.*", "relay-*", "relay@*") == "", units("relay.*", "relay-*", "relay@*")
    names = command("ps", "-eo", "args").splitlines()
    ours = [name for name in names if "/bin/relay " in name or name.startswith("relay: ")]
    assert not ours, ours
    command("make", "-C", TOP, "install", "prefix=/usr")
    with Installed(unit) as relay:
        exchange(*make_pair(relay))
        nothing_has_failed()


if __name__ == "__main__":
    run()
