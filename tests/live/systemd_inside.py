"""relay under systemd, from the inside: run by systemd_test.py as a process of a system of its own,
which is thrown away afterwards."""

import os
import pwd
import socket
import stat
import subprocess
import time

from harness import (Relay, TOP, behaviour, exchange, line, make_pair, new_side, new_token, run,
                     wait_until)
from magic_wormhole import send_a_file

KINDS = {"relay.socket": "relay-prefork.socket", "relay-prefork.socket": "relay.socket"}


class Installed(Relay):  # pylint: disable=super-init-not-called
    """The relay that systemd runs, with what the tests ask of any."""

    def __init__(self, unit):
        self.how, self.port, self.runtime, self.process = unit, 4001, "/run/relay", None
        command("systemctl", "disable", "--now", KINDS[unit])
        command("systemctl", "stop", "relay-forward.service")
        command("systemctl", "enable", "--now", unit)
        wait_until(self._answers, f"{unit} to listen")

    def _answers(self):
        with open("/proc/net/tcp6", encoding="ascii") as file:
            return f":{self.port:04X} 00000000000000000000000000000000:0000 0A" in file.read()

    def log(self):
        return command("journalctl", "--no-pager", "-o", "cat", "-n", "30", check=False)

    def stop(self):
        command("systemctl", "disable", "--now", self.how)
        for unit in ("relay-prefork.service", "relay-forward.service"):
            command("systemctl", "stop", unit)


def command(*arguments, check=True):
    result = subprocess.run(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, timeout=60, check=False)
    text = result.stdout.decode(errors="replace")
    assert not check or result.returncode == 0, f"{' '.join(arguments)}: {text}"
    return text


def property_of(unit, name):
    return command("systemctl", "show", "--value", f"--property={name}", unit).strip()


def nothing_has_failed():
    failed = command("systemctl", "list-units", "--failed", "--plain", "--no-legend", "relay*")
    assert failed.strip() == "", failed


@behaviour()
def make_install_puts_everything_in_its_place():
    command("make", "-C", TOP, "install", "prefix=/usr")
    user = pwd.getpwnam("relay")
    status = os.stat("/run/relay")
    assert stat.S_IMODE(status.st_mode) == 0o700 and status.st_uid == user.pw_uid, status
    units = ["relay.socket", "relay@.service", "relay-forward.socket", "relay-forward.service",
             "relay-prefork.socket", "relay-prefork.service"]
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
def no_process_of_it_is_root(unit):
    with Installed(unit) as relay:
        pair = make_pair(relay)
        silent = relay.connect()
        relay.wait_for(greeting=1)
        names = command("ps", "-eo", "user,args").splitlines()
        ours = [name for name in names if "/bin/relay " in name]
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
def two_thousand_connections_leave_it_listening(unit):
    with Installed(unit) as relay:
        pair = make_pair(relay)
        flood = []
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
        # relay.socket starts 128 workers at once for a source, and drops who else comes from there.
        started = time.monotonic()
        wait_until(lambda: can_pair(relay), "a new pair", patience=60)
        print(f"#   the next pair {time.monotonic() - started:.1f} s later")
        nothing_has_failed()


def can_pair(relay):
    """Whether it does so soon; if one of the two was dropped, the other waits in vain."""
    try:
        exchange(*make_pair(relay, patience=3))
        return True
    except (AssertionError, OSError):
        return False


@behaviour(*KINDS)
def no_address_is_in_the_journal(unit):
    with Installed(unit) as relay:
        since = time.time()
        exchange(*make_pair(relay))
        with relay.connect() as client:
            client.send(b"nonsense\n").expect(b"bad handshake\n")
        relay.wait_for(used=0)
        text = command("journalctl", "--no-pager", f"--since=@{since:.0f}")
        assert "127.0.0.1" not in text, text


@behaviour(*KINDS)
def a_forwarder_that_was_killed_is_there_again(unit):
    with Installed(unit) as relay:
        make_pair(relay)
        before = relay.forwarder()
        os.kill(before, 9)
        pair = make_pair(relay)
        exchange(*pair)
        assert relay.forwarder() != before
        nothing_has_failed()


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


@behaviour("relay.socket")
def pairs_outlive_a_stop_of_the_socket(unit):
    with Installed(unit) as relay:
        pair = make_pair(relay)
        command("systemctl", "stop", unit)
        exchange(*pair)


@behaviour()
def options_come_from_one_line():
    with open("/etc/default/relay", "w", encoding="ascii") as file:
        file.write('RELAY_OPTIONS="--wait-timeout=1 --usage-db=/var/lib/relay/usage.sqlite"\n')
    try:
        for unit in KINDS:
            with Installed(unit) as relay:
                relay.connect().send(line(new_token())).expect_end()
        wait_until(lambda: os.path.exists("/var/lib/relay/usage.sqlite"), "the database")
    finally:
        os.unlink("/etc/default/relay")


@behaviour()
def the_units_are_hardened():
    for unit in ("relay-forward.service", "relay-prefork.service", "relay@1.service"):
        text = command("systemd-analyze", "security", "--no-pager", unit, check=False)
        score = float(text.split("Overall exposure level for ")[1].split(":")[1].split()[0])
        print(f"#   {unit}: exposure {score}")
        assert score < 3, text


@behaviour()
def make_uninstall_takes_everything_away():
    command("make", "-C", TOP, "uninstall", "prefix=/usr")
    left = command("find", "/usr/bin", "/usr/share/man/man8", "/usr/share/doc", "/etc/systemd/system",
                   "/usr/lib/sysusers.d", "/usr/lib/tmpfiles.d", "-name", "relay*")
    assert left.strip() == "", left


if __name__ == "__main__":
    run()
