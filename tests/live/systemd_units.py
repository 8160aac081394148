"""What runs inside a system of its own (systemd_boot.py) asks of relay's units there."""

import subprocess

from harness import Relay, wait_until

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
        return is_listened_on(self.port)

    def log(self):
        return command("journalctl", "--no-pager", "-o", "cat", "-n", "30", check=False)

    def stop(self):
        command("systemctl", "disable", "--now", self.how)
        for unit in ("relay-prefork.service", "relay-forward.service"):
            command("systemctl", "stop", unit)


def is_listened_on(port):
    with open("/proc/net/tcp6", encoding="ascii") as file:
        return f":{port:04X} 00000000000000000000000000000000:0000 0A" in file.read()


def command(*arguments, check=True):
    result = subprocess.run(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, timeout=60, check=False)
    text = result.stdout.decode(errors="replace")
    assert not check or result.returncode == 0, f"{' '.join(arguments)}: {text}"
    return text


def property_of(unit, name):
    return command("systemctl", "show", "--value", f"--property={name}", unit).strip()


def units(*patterns):
    return command("systemctl", "list-units", "--all", "--plain", "--no-legend", *patterns).strip()


def journal_since(start, *options):
    command("journalctl", "--sync")
    return command("journalctl", "--no-pager", f"--since=@{start:.6f}", *options)


def no_address_is_logged_since(start):
    """In no field of any entry."""
    named = [entry for entry in journal_since(start, "-o", "export").splitlines()
             if "127.0.0.1" in entry]
    assert not named, f"{len(named)} times, as in: {named[0]}"


def nothing_has_failed():
    failed = command("systemctl", "list-units", "--failed", "--plain", "--no-legend", "relay*")
    assert failed.strip() == "", failed
