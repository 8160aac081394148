"""Whoever needs a forwarder and finds none makes one; and the health says when newcomers cannot be
served."""

import contextlib
import fcntl
import os
import signal
import subprocess

from harness import (PATIENCE, RELAY, Client, Relay, alive, behaviour, exchange, free_port, line,
                     make_pair, new_side, new_token, run, send_until_blocked, wait_until)
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


def kill_server(relay):
    """Its forwarder stays."""
    wait_until(relay.forwarder, "a forwarder")
    relay.process.kill()
    relay.process.wait()


@behaviour()
def a_server_that_found_a_forwarder_makes_one_when_that_is_gone():
    with Relay() as relay:
        kill_server(relay)
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
def who_comes_to_another_server_meanwhile_waits_for_the_next_forwarder():
    with Relay() as relay, another_server(relay) as server:
        token, data = new_token(), os.urandom(1 << 16)
        reader, sender = (relay.connect().send(line(token, new_side())) for _ in range(2))
        reader.expect(b"ok\n")
        sender.expect(b"ok\n")
        send_until_blocked(sender, data)
        relay.process.terminate()
        wait_until(lambda: not os.path.exists(f"{relay.runtime}/forward.sock"), "it to be stopping")
        token = new_token()
        early = [server.connect().send(line(token, new_side())) for _ in range(2)]
        early[0].expect_silence()
        assert relay.process.poll() is None, "the first has not ended yet"
        reader.close()
        for client in early:
            client.expect(b"ok\n")
        exchange(*early)
        assert relay.process.wait(PATIENCE) == 0


@behaviour()
def the_health_is_503_while_no_forwarder_can_be_had():
    with Relay() as relay:
        kill_server(relay)
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
def a_worker_without_a_forwarder_says_so():
    with Relay("accept", options=["--handshake-timeout=1"]) as relay:
        meets(relay)
        forwarder = relay.forwarder()
        wait_until(lambda: not alive(forwarder), "the forwarder to retire")
        with open(f"{relay.runtime}/forward.lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert get(relay, "/healthz").status == 503
        assert get(relay, "/healthz").status == 200


if __name__ == "__main__":
    run()
