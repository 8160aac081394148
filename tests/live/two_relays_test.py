"""Two relays on one machine, started apart and as they are published, so that both use the directories
that they have by themselves: neither ends what the other serves."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time

from harness import (PATIENCE, RELAY, Skip, alive, behaviour, children, free_port, line, make_pair,
                     new_side, new_token, process_name, run, send_until_blocked, wait_until)
from harness import exchange as exchange_bytes
from offset_client import Identity
from offset_relay import OffsetRelay, exchange
from websocket_client import get


class Strelay(OffsetRelay):
    """One of them: `strelay --idfile FILE --laddr ADDRESS`."""

    def __init__(self, machine, options=()):  # pylint: disable=super-init-not-called
        self.machine = machine
        self.how = "serve"
        self.port = free_port()
        self.identity = Identity()
        self.runtime = machine.runtime
        path = os.path.join(machine.directory, f"{self.port}.ident")
        self.log_path = os.path.join(machine.directory, f"{self.port}.log")
        self.identity.write(path)
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [*machine.enter, machine.program, "--idfile", path,
                 "--laddr", f"127.0.0.1:{self.port}", *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._answers, "it to listen")

    def tell_to_stop(self):
        self.process.terminate()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def expect_orderly_end(self):
        assert self.process.wait(PATIENCE) == 0, self.log()

    def stop(self):
        self.tell_to_stop()
        self.expect_orderly_end()


class Machine:
    """Where they run: /run and /var/lib are its own, and new."""

    def __enter__(self):
        if os.geteuid() != 0:
            raise Skip("a machine of its own needs root")
        self.directory = tempfile.mkdtemp(prefix="relay-two-")
        os.chmod(self.directory, 0o755)
        self.program = os.path.join(self.directory, "strelay")
        os.symlink(RELAY, self.program)
        script = "mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /var/lib; exec sleep infinity"
        self.holder = subprocess.Popen(["unshare", "--mount", "sh", "-ec", script])
        self.enter = ["nsenter", f"--mount=/proc/{self.holder.pid}/ns/mnt"]
        self.runtime = f"/proc/{self.holder.pid}/root/run/relay"
        wait_until(lambda: process_name(self.holder.pid) == "sleep", "the machine")
        self.relays = []
        return self

    def start(self, *options):
        self.relays.append(Strelay(self, options))
        return self.relays[-1]

    def processes(self):
        """All processes that are there but its own."""
        def namespace(pid):
            with contextlib.suppress(OSError):
                return os.readlink(f"/proc/{pid}/ns/mnt")
            return None

        own = namespace(self.holder.pid)
        return [int(pid) for pid in os.listdir("/proc") if pid.isdigit()
                and int(pid) != self.holder.pid and namespace(pid) == own and alive(pid)]

    def expect_nothing_running(self):
        wait_until(lambda: not self.processes(), "everything to have ended", 2)

    def __exit__(self, kind, value, trace):
        if kind is not None:
            for relay in self.relays:
                print("".join(f"#   log: {text}\n" for text in relay.log().splitlines()[-10:]))
        for relay in self.relays:
            if relay.process.poll() is None:
                relay.kill()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.holder.kill()
        self.holder.wait()
        shutil.rmtree(self.directory)


@contextlib.contextmanager
def two(*options):
    """The first has the forwarder."""
    with Machine() as machine:
        yield machine, machine.start(*options), machine.start(*options)


def expect_ended(*connections):
    for connection in connections:
        connection.expect_closed()


@behaviour()
def a_key_that_listens_at_one_is_not_found_at_the_other_and_may_listen_there_too():
    with two() as (_, first, second):
        listener = first.listener()
        with second.open() as stranger:
            stranger.connect_to(listener.identity.key).expect_closed()
        both = second.listener(listener.identity)
        for relay, own in ((first, listener), (second, both)):
            exchange(*relay.tunnel(own))


@behaviour("the first", "the second")
def connections_of_the_other_server_go_on_when_one_is_told_to_stop(which):
    with two() as (machine, first, second):
        stopped, other = (first, second) if which == "the first" else (second, first)
        forwarder = other.forwarder()
        ended, tunnel, listener = stopped.tunnel(), other.tunnel(), other.listener()
        stopped.tell_to_stop()
        expect_ended(*ended)
        stopped.expect_orderly_end()
        exchange(*tunnel)
        exchange(*other.tunnel(listener))
        exchange(*other.tunnel())
        assert other.forwarder() == forwarder, "the same goes on"
        other.tell_to_stop()
        expect_ended(*tunnel, listener)
        other.expect_orderly_end()
        machine.expect_nothing_running()


@behaviour()
def a_client_that_is_handed_over_while_the_other_server_stops_is_served_at_once():
    with two() as (_, first, second):
        forwarder = second.forwarder()
        reader, sender = make_pair(first)
        send_until_blocked(sender, os.urandom(1 << 16))
        first.tell_to_stop()
        wait_until(lambda: get(first, "/healthz").status == 503, "the end to be near")
        exchange(*second.tunnel())
        assert second.forwarder() == forwarder
        reader.close()
        first.expect_orderly_end()


@behaviour()
def a_client_that_reads_nothing_delays_a_stopping_server_for_a_moment_only_and_is_closed():
    with two() as (_, first, second):
        pair, others = make_pair(first), make_pair(second)
        send_until_blocked(pair[1], os.urandom(1 << 16))
        first.stop()
        assert second.status()["states"]["joined"] == 2
        forwarder = second.forwarder()
        assert sum(1 for fd in os.listdir(f"/proc/{forwarder}/fd") if is_connection(forwarder, fd)) == 2
        exchange_bytes(*others)


def is_connection(pid, descriptor):
    """Whether it is a TCP connection."""
    with contextlib.suppress(OSError):
        inode = os.readlink(f"/proc/{pid}/fd/{descriptor}").removeprefix("socket:[").removesuffix("]")
        with open("/proc/net/tcp", encoding="ascii") as file:
            return any(entry.split()[9] == inode for entry in file)
    return False


@behaviour()
def a_pair_of_clients_of_both_ends_with_either():
    with two() as (_, first, second):
        token, data = new_token(), os.urandom(1000)
        clients = [relay.connect().send(line(token, new_side())) for relay in (first, second)]
        for client in clients:
            client.expect(b"ok\n")
        clients[0].send(data)
        wait_until(lambda: first.status()["incomplete_bytes"] == len(data), "it to be read")
        first.stop()
        clients[1].expect(data).expect_end()


@behaviour()
def connections_go_on_when_the_other_server_is_killed_and_end_when_their_own_is_told_to_stop():
    with two() as (machine, first, second):
        forwarder = second.forwarder()
        left, tunnel = first.tunnel(), second.tunnel()
        first.kill()
        exchange(*left)
        exchange(*tunnel)
        exchange(*second.tunnel())
        again = machine.start()
        exchange(*again.tunnel())
        again.stop()
        exchange(*left)
        exchange(*tunnel)
        assert second.forwarder() == forwarder
        second.tell_to_stop()
        expect_ended(*left, *tunnel)
        second.expect_orderly_end()
        machine.expect_nothing_running()


@behaviour()
def a_forwarder_that_is_killed_when_its_starter_has_stopped_is_replaced():
    with two() as (machine, first, second):
        first.stop()
        forwarder = second.forwarder()
        os.kill(forwarder, signal.SIGKILL)
        wait_until(lambda: not alive(forwarder), "it to be dead")
        exchange(*second.tunnel())
        assert second.forwarder() in children(second.process.pid)
        second.stop()
        machine.expect_nothing_running()


@behaviour()
def two_servers_that_are_told_to_stop_at_once_leave_no_process():
    for _ in range(5):
        with two() as (machine, first, second):
            tunnels = [*first.tunnel(), *second.tunnel()]
            first.tell_to_stop()
            second.tell_to_stop()
            expect_ended(*tunnels)
            first.expect_orderly_end()
            second.expect_orderly_end()
            machine.expect_nothing_running()


@behaviour()
def a_server_that_starts_while_the_last_one_stops_gets_a_forwarder_and_serves():
    for pause in (0, 0.01, 0.03, 0.1):
        with Machine() as machine:
            first = machine.start()
            make_pair(first)
            first.tell_to_stop()
            time.sleep(pause)
            exchange(*machine.start().tunnel())
            first.expect_orderly_end()


@behaviour()
def pairs_of_the_second_server_are_recorded_after_the_first_has_stopped():
    with Machine() as machine:
        path = os.path.join(machine.directory, "usage")
        os.mkdir(path)
        shutil.chown(path, "nobody")
        relays = [machine.start(f"--usage-db={path}/database") for _ in range(2)]
        relays[0].stop()
        for connection in relays[1].tunnel():
            connection.close()
        wait_until(lambda: relays[1].outcomes("offset")["happy"] == 1, "the end of the tunnel")
        relays[1].stop()
        machine.expect_nothing_running()
        with contextlib.closing(sqlite3.connect(f"{path}/database")) as database:
            rows = database.execute("SELECT result FROM usage").fetchall()
        assert ("happy",) in rows, rows


if __name__ == "__main__":
    run()
