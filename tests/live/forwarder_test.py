"""A process that needs a forwarder and finds none starts one; and the health says when newcomers cannot be
served."""

import contextlib
import fcntl
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import tempfile

from harness import (OWN_USER, PATIENCE, RELAY, Client, Relay, alive, behaviour, children, exchange,
                     free_port, limited, line, make_pair, new_side, new_token, run,
                     send_until_blocked, wait_until, without_memory)
from websocket_client import get


@contextlib.contextmanager
def another_server(relay):
    """A second server in the directory of the first; only its port is another. It has what clients
    need of a relay."""
    class Server:
        port = free_port()

        def connect(self, patience=PATIENCE):
            return Client(("127.0.0.1", self.port), patience)

    server = Server()
    said = len(relay.log())
    with open(relay.log_path, "ab") as log:
        server.process = subprocess.Popen(
            [RELAY, "serve", f"--listen=127.0.0.1:{server.port}", *relay.options],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_until(lambda: "listening on" in relay.log()[said:], "it to listen")
        yield server
    finally:
        server.process.terminate()
        assert server.process.wait(PATIENCE) == 0


def kill_forwarder(relay):
    pid = wait_until(relay.forwarder, "a forwarder")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), "it to be dead")
    return pid


def meets(server):
    first, second = make_pair(server)
    exchange(first, second)
    first.close()
    second.close()


@behaviour()
def a_server_that_used_the_forwarder_of_another_starts_one_when_that_is_gone():
    with Relay() as relay:
        relay.kill_server()
        with another_server(relay) as server:
            meets(server)
            for _ in range(3):
                gone = kill_forwarder(relay)
                meets(server)
                assert get(server, "/healthz").status == 200
                assert relay.forwarder() not in (0, gone)


@behaviour()
def a_server_goes_on_when_the_one_that_ran_the_forwarder_is_stopped():
    with Relay() as relay, another_server(relay) as server:
        meets(server)
        relay.process.terminate()
        assert relay.process.wait(PATIENCE) == 0
        assert get(server, "/healthz").status == 200
        meets(server)


@behaviour()
def a_client_that_connects_while_the_forwarder_stops_waits_for_the_next_forwarder():
    with Relay() as relay, another_server(relay) as server:
        reader, sender = make_pair(relay)
        send_until_blocked(sender, os.urandom(1 << 16))
        last = relay.forwarder()
        os.kill(last, signal.SIGTERM)
        wait_until(lambda: relay.status()["states"]["joined"] == 0, "it to be stopping")
        token = new_token()
        early = [server.connect().send(line(token, new_side())) for _ in range(2)]
        relay.wait_for(matched=2)
        early[0].expect_silence()
        assert alive(last), "it has not ended yet"
        reader.close()
        for client in early:
            client.expect(b"ok\n")
        exchange(*early)


@behaviour()
def the_health_is_503_while_no_forwarder_can_be_had():
    with Relay() as relay:
        relay.kill_server()
        with another_server(relay) as server:
            pid = relay.forwarder()
            os.kill(pid, signal.SIGSTOP)
            with open(f"{relay.runtime}/forward.lock", "rb") as lock:
                os.kill(pid, signal.SIGKILL)
                wait_until(lambda: not alive(pid), "it to be dead")
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                assert get(server, "/healthz").status == 503
            wait_until(lambda: get(server, "/healthz").status == 200, "a forwarder")
            meets(server)


@behaviour()
def the_health_is_503_while_the_forwarder_stands_still():
    with Relay() as relay:
        exchange(*make_pair(relay))
        assert get(relay, "/healthz").status == 200
        forwarder = relay.forwarder()
        os.kill(forwarder, signal.SIGSTOP)
        assert get(relay, "/healthz").status == 503
        os.kill(forwarder, signal.SIGCONT)
        wait_until(lambda: get(relay, "/healthz").status == 200, "the health")


SILENCE = "does not answer: nobody meets until it goes on"


@behaviour()
def a_worker_of_a_single_connection_logs_that_the_forwarder_stands_still():
    with Relay("accept") as relay:
        pair = make_pair(relay)
        forwarder = relay.forwarder()
        os.kill(forwarder, signal.SIGSTOP)
        early = relay.connect().send(line(TOKEN := new_token(), new_side()))
        wait_until(lambda: f"process {forwarder}, {SILENCE}" in relay.log(), "it to say so")
        os.kill(forwarder, signal.SIGCONT)
        relay.connect().send(line(TOKEN, new_side())).expect(b"ok\n")
        early.expect(b"ok\n")
        exchange(*pair)


@behaviour()
def a_server_logs_once_that_its_forwarder_stands_still_and_that_it_goes_on():
    with Relay() as relay:
        meets(relay)
        forwarder = relay.forwarder()
        os.kill(forwarder, signal.SIGSTOP)
        early = relay.connect().send(line(TOKEN := new_token(), new_side()))
        wait_until(lambda: f"process {forwarder}, {SILENCE}" in relay.log(), "it to say so")
        early.expect_silence(2)
        os.kill(forwarder, signal.SIGCONT)
        relay.connect().send(line(TOKEN, new_side())).expect(b"ok\n")
        wait_until(lambda: "the forwarder answers again" in relay.log(), "it to say that, too")
        assert relay.log().count(SILENCE) == 1, relay.log()


@behaviour()
def a_server_logs_that_the_forwarder_it_finds_stands_still_even_without_clients():
    with Relay() as relay:
        relay.kill_server()
        forwarder = relay.forwarder()
        os.kill(forwarder, signal.SIGSTOP)
        with another_server(relay) as server:
            wait_until(lambda: f"process {forwarder}, {SILENCE}" in relay.log(), "it to say so")
            assert get(server, "/healthz").status == 503
            kill_forwarder(relay)
            meets(server)
            assert get(server, "/healthz").status == 200


@behaviour()
def a_handoff_that_waits_for_room_when_the_forwarder_is_killed_reaches_the_next_forwarder():
    with Relay() as relay:
        relay.kill_server()
        with another_server(relay) as server:
            os.kill(relay.forwarder(), signal.SIGSTOP)
            crowd = [server.connect().send(line(new_token())) for _ in range(20)]
            relay.wait_for(waiting=20)
            tokens = [new_token() for _ in range(20)]
            early = [server.connect().send(line(token, new_side())) for token in tokens]
            relay.wait_for(waiting=40)
            kill_forwarder(relay)
            for client, token in zip(early, tokens):
                with server.connect().send(line(token, new_side())) as other:
                    exchange(client.expect(b"ok\n"), other.expect(b"ok\n"))
            for client in crowd:
                client.close()


@behaviour()
def the_health_is_503_while_there_are_no_descriptors_for_newcomers():
    with Relay(limit=64) as relay:
        assert get(relay, "/healthz").status == 200
        waiting = [relay.connect().send(line(new_token())) for _ in range(45)]
        wait_until(lambda: "no more connections are taken" in relay.log(), "descriptors to be short")
        assert get(relay, "/healthz").status == 503
        for client in waiting:
            client.close()
        wait_until(lambda: get(relay, "/healthz").status == 200, "them to be free again")
        meets(relay)


@behaviour()
def a_client_that_connects_under_a_lowered_limit_on_descriptors_waits_until_it_is_raised():
    with Relay(options=OWN_USER) as relay:
        pair = make_pair(relay)
        token = new_token()
        with limited(relay.forwarder(), resource.RLIMIT_NOFILE, 12):
            early = [relay.connect().send(line(token, new_side())) for _ in range(2)]
            relay.wait_for(matched=2)
            assert get(relay, "/healthz").status == 503
            exchange(*pair)
        for client in early:
            client.expect(b"ok\n")
        exchange(*early)
        assert get(relay, "/healthz").status == 200


@behaviour()
def the_health_is_503_while_there_is_no_memory_for_newcomers():
    with Relay(options=OWN_USER) as relay:
        pair = make_pair(relay)
        crowd = []

        def is_told():
            crowd.extend(relay.connect().send(line(new_token())) for _ in range(20))
            return "cannot take a connection: Cannot allocate memory" in relay.log()

        with without_memory(relay.forwarder()):
            wait_until(is_told, "memory to be short")
            assert get(relay, "/healthz").status == 503
            early = relay.connect().send(line(TOKEN := new_token(), new_side()))
            exchange(*pair)
            assert get(relay, "/healthz").status == 503
            early.expect_silence()
        other = relay.connect().send(line(TOKEN, new_side()))
        exchange(early.expect(b"ok\n"), other.expect(b"ok\n"))
        assert get(relay, "/healthz").status == 200
        for client in crowd:
            client.close()
        relay.wait_for(used=4)


@behaviour()
def a_worker_that_finds_no_forwarder_logs_that():
    with Relay("accept", options=["--handshake-timeout=1"]) as relay:
        meets(relay)
        forwarder = relay.forwarder()
        wait_until(lambda: not alive(forwarder), "the forwarder to retire")
        with open(f"{relay.runtime}/forward.lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert get(relay, "/healthz").status == 503
        assert get(relay, "/healthz").status == 200


# ---- options that have changed ----------------------------------------------------------


class OnDemand(Relay):
    """Workers as inetd starts them, each with options of its own; the forwarder is the first one's."""

    def __init__(self):  # pylint: disable=super-init-not-called
        self.prepare()
        self.options = self.options[:2]

    def connect_with(self, *options):
        """A client, and its worker with these options."""
        client = Client.__new__(Client)
        client.socket, server = socket.socketpair()
        client.socket.settimeout(PATIENCE)
        with open(self.log_path, "ab") as log, server:
            worker = subprocess.Popen([RELAY, "worker", *self.options, *options],
                                      stdin=server, stdout=log, stderr=log)
        client.worker = worker
        return client

    def stop(self):
        """Ends it, and waits for the recorder, which may have files in a test's directory."""
        forwarder = self.forwarder()
        keepers = children(forwarder) if forwarder else []
        recording = [*keepers, *(pid for keeper in keepers for pid in children(keeper))]
        super().stop()
        wait_until(lambda: not any(map(alive, recording)), "the recorder to end")

    def wait_with(self, *options):
        client = self.connect_with(*options).send(line(new_token()))
        assert client.worker.wait(PATIENCE) == 0, self.log()
        return client

    def pair_with(self, *options):
        token = new_token()
        clients = [self.connect_with(*options).send(line(token, new_side())) for _ in range(2)]
        for client in clients:
            client.expect(b"ok\n")
            assert client.worker.wait(PATIENCE) == 0
        return clients


@behaviour()
def options_that_have_changed_hold_for_all_while_a_forwarder_lives():
    with OnDemand() as relay:
        first = relay.wait_with()
        forwarder = relay.forwarder()
        second = relay.wait_with("--wait-timeout=2")
        relay.wait_for(waiting=2)
        first.expect_end()
        second.expect_end()
        assert relay.forwarder() == forwarder
        assert "options have changed: a wait of 2 s" in relay.log(), relay.log()


@behaviour()
def a_limit_of_bytes_that_was_added_holds_for_pairs_that_are_there():
    with OnDemand() as relay:
        pair = relay.pair_with()
        exchange(*pair)
        relay.wait_with("--session-bytes=10000")
        wait_until(lambda: "10000 bytes per pair" in relay.log(), "the limit")
        received = 2000
        # One after the other, as what one turn moves may go beyond the limit.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(1000):
                pair[0].send(bytes(1000))
                received += len(pair[1].receive(1000))
        assert received == 10000, received


@behaviour()
def options_that_have_not_changed_are_not_logged():
    with OnDemand() as relay:
        waiting = [relay.wait_with("--linger=7") for _ in range(3)]
        relay.wait_for(waiting=3)
        assert "changed" not in relay.log(), relay.log()
        for client in waiting:
            client.close()


@behaviour()
def of_different_options_those_of_the_server_started_last_hold():
    with Relay(options=["--wait-timeout=1000"]) as relay:
        exchange(*make_pair(relay))  # its forwarder has read its options
        relay.options.append("--wait-timeout=2000")
        with another_server(relay) as server:
            waiting = [server.connect().send(line(new_token()))]
            wait_until(lambda: "a wait of 2000 s" in relay.log(), "the other options")
            waiting.append(relay.connect().send(line(new_token())))
            relay.wait_for(waiting=2)
            assert "a wait of 1000 s" not in relay.log(), relay.log()


@behaviour()
def a_forwarder_with_other_options_for_records_logs_that_and_is_replaced():
    with tempfile.TemporaryDirectory(prefix="relay-usage-") as directory, OnDemand() as relay:
        os.chmod(directory, 0o777)
        database = os.path.join(directory, "usage.sqlite")
        pair = relay.pair_with()
        forwarder = relay.forwarder()
        for client in relay.pair_with(f"--usage-db={database}"):
            client.close()
        exchange(*pair)
        assert relay.forwarder() == forwarder
        assert relay.log().count("usage records are kept as this forwarder") == 1, relay.log()
        for client in pair:
            client.close()
        wait_until(lambda: not alive(forwarder), "it to retire, though its idle time is 30 s", 10)
        for client in relay.pair_with(f"--usage-db={database}"):
            client.close()

        def rows():
            with contextlib.suppress(sqlite3.Error), sqlite3.connect(
                    f"file:{database}?mode=ro", uri=True) as connection:
                return connection.execute("SELECT count(*) FROM usage").fetchone()[0]
            return 0

        wait_until(lambda: rows() == 1, "a record")


@behaviour()
def a_forwarder_on_demand_whose_recorder_and_its_keeper_are_killed_is_replaced():
    with tempfile.TemporaryDirectory(prefix="relay-usage-") as directory, OnDemand() as relay:
        os.chmod(directory, 0o777)
        usage = f"--usage-db={directory}/usage.sqlite"
        first, second = relay.pair_with(usage)
        forwarder = relay.forwarder()
        keeper = children(forwarder)[0]
        recording = [keeper, *wait_until(lambda: children(keeper), "the recorder")]
        for pid in recording:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(alive, recording)), "them to be dead")
        exchange(first, second)
        first.close()
        second.close()
        wait_until(lambda: not alive(forwarder), "it to retire, though its idle time is 30 s", 10)
        assert "the recorder is gone" in relay.log(), relay.log()
        meets_again = relay.pair_with(usage)
        assert children(relay.forwarder()), "there is a recorder again"
        for client in meets_again:
            client.close()


if __name__ == "__main__":
    run()
