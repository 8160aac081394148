"""Relay runs where something that it uses elsewhere is missing or strange, or ends at once with the
real reason."""

import contextlib
import os
import subprocess
import tempfile

from harness import (PATIENCE, RELAY, Client, Skip, behaviour, children, exchange, free_port, line,
                     new_side, new_token, run, wait_until)


class Placed:
    """`relay serve` in surroundings that `before`, a command, makes for it."""

    def __init__(self, before=(), *options, address="127.0.0.1", runtime=None, cwd=None):
        if os.geteuid() != 0:
            raise Skip("this needs root")
        self.directory = tempfile.TemporaryDirectory(prefix="relay-placed-")
        os.chmod(self.directory.name, 0o755)
        self.port = free_port()
        self.log_path = os.path.join(self.directory.name, "log")
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [*before, RELAY, "serve", f"--listen={address}:{self.port}",
                 f"--runtime-dir={runtime or self.directory.name + '/run'}",
                 f"--state-dir={self.directory.name}/state", *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd or self.directory.name)
        wait_until(lambda: self.process.poll() is not None or "listening on" in self.log(),
                   "the relay to begin or to end")

    def log(self):
        with open(self.log_path, encoding="utf-8") as file:
            return file.read()

    def serves(self):
        assert self.process.poll() is None, self.log()
        token = new_token()
        pair = [Client(("127.0.0.1", self.port)).send(line(token, new_side())) for _ in range(2)]
        for client in pair:
            client.expect(b"ok\n")
        exchange(*pair)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.directory.cleanup()


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
def root_that_cannot_become_another_serves(how):
    before = (["unshare", "--map-root-user"] if how.startswith("one user")
              else ["setpriv", "--bounding-set=-all", "--inh-caps=-all"])
    with Placed(before, *(["--user=root"] if "=" in how else [])) as relay:
        relay.serves()
        for pid in [relay.process.pid, *children(relay.process.pid)]:
            with open(f"/proc/{pid}/status", encoding="ascii") as file:
                assert "CapEff:\t0000000000000000\n" in file.read(), pid


@behaviour()
def root_that_cannot_become_whom_it_was_told_says_so():
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
def a_user_that_is_nobody_is_named():
    with Placed([], "--user=12x") as relay:
        assert relay.process.wait(PATIENCE) == 1
        assert "there is no user 12x" in relay.log(), relay.log()


if __name__ == "__main__":
    run()
