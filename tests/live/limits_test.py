"""Limits hold, one client's excess is not another's, and every way to end is clean."""

import contextlib
import os
import socket
import subprocess
import tempfile
import threading
import time

from harness import (PATIENCE, RELAY, Relay, alive, behaviour, descriptors, exchange, line,
                     make_pair, new_side, new_token, run, wait_until)
from websocket_client import WebSocket

OPCODE_OF_NOTHING = 3


@behaviour()
def a_full_table_refuses_the_newcomer_and_no_other_client():
    with Relay(options=["--max-connections=4"]) as relay:
        waiting = [relay.connect().send(line(new_token())) for _ in range(2)]
        relay.wait_for(waiting=2)
        pair = make_pair(relay)
        with relay.connect() as newcomer:
            newcomer.expect_end()
        relay.wait_for_outcomes(full=1)
        exchange(*pair)
        waiting[0].close()
        relay.wait_for(used=3)
        waiting.append(relay.connect().send(line(new_token())))
        relay.wait_for(waiting=2, used=4)


@behaviour()
def one_source_has_no_more_connections_than_its_share():
    with Relay(options=["--per-source=3"]) as relay:
        waiting = [relay.connect().send(line(new_token())) for _ in range(3)]
        relay.wait_for(waiting=3)
        with relay.connect() as fourth:
            fourth.expect_end()
        relay.wait_for_outcomes(crowded=1)
        with socket.socket() as elsewhere:
            elsewhere.bind(("127.0.0.2", 0))
            elsewhere.connect(("127.0.0.1", relay.port))
            elsewhere.sendall(line(new_token()))
            relay.wait_for(waiting=4)
        relay.wait_for(waiting=3)
        waiting[0].close()
        relay.wait_for(waiting=2)
        waiting.append(relay.connect().send(line(new_token())))
        relay.wait_for(waiting=3)


def refused_introduction(relay):
    """A connection that was told why it is closed, and goes on to hold its own side open."""
    client = WebSocket(relay, "/introduction/leaving")
    return client.send_frame(OPCODE_OF_NOTHING, b"what breaks the protocol")


@behaviour("a source's share", "all connections")
def a_client_that_is_told_to_leave_counts_until_it_is_closed(what):
    limit = "--per-source=3" if what == "a source's share" else "--max-connections=3"
    with Relay(options=[limit]) as relay:
        for client in make_pair(relay):
            client.close()
        relay.wait_for(used=0)
        before = len(descriptors(relay.forwarder()))
        leaving = [refused_introduction(relay) for _ in range(3)]
        relay.wait_for(leaving=3, used=3)
        with relay.connect() as fourth:
            fourth.send(line(new_token())).expect_end()
        assert len(descriptors(relay.forwarder())) <= before + 3
        leaving.pop().close()
        relay.wait_for(leaving=2)
        leaving.append(relay.connect().send(line(new_token())))
        relay.wait_for(waiting=1, used=3)
        relay.wait_for(used=1)  # a client that does not close has only so much time
        for client in leaving:
            client.close()


@behaviour()
def a_client_that_waits_too_long_is_closed():
    with Relay(options=["--wait-timeout=1"]) as relay:
        with relay.connect() as client:
            client.send(line(new_token())).expect_end()
        relay.wait_for(used=0)
        relay.wait_for_outcomes(lonely=1)


@behaviour()
def a_pair_may_last_longer_than_the_wait():
    with Relay(options=["--wait-timeout=1"]) as relay:
        pair = make_pair(relay)
        with relay.connect() as lonely:  # it comes later, and its wait ends
            lonely.send(line(new_token())).expect_end()
        exchange(*pair)


@behaviour()
def a_pair_ends_when_its_bytes_are_used_up():
    with Relay(options=["--session-bytes=1MB"]) as relay:
        first, second = make_pair(relay)
        sender = threading.Thread(target=lambda: send_until_refused(first, 50_000_000))
        sender.start()
        received = 0
        while True:
            try:
                part = second.socket.recv(1 << 16)
            except ConnectionResetError:
                break
            if not part:
                break
            received += len(part)
        sender.join()
        # The limit may be exceeded by what one turn moves, and no more.
        assert 1_000_000 <= received < 6_000_000, received
        relay.wait_for(used=0)


def send_until_refused(client, size):
    try:
        client.send(b"x" * size)
        client.close()
    except OSError:
        pass


class Stream:
    """A pair whose first sends without end, and what has arrived at its second."""

    def __init__(self, relay):
        self.arrived = 0
        first, self.receiver = make_pair(relay)
        self.threads = [threading.Thread(target=send_until_refused, args=(first, 1 << 26)),
                        threading.Thread(target=self._count)]

    def start(self):
        for thread in self.threads:
            thread.start()

    def _count(self):
        with contextlib.suppress(OSError):
            while part := self.receiver.socket.recv(1 << 16):
                self.arrived += len(part)

    def join(self):
        for thread in self.threads:
            thread.join()


@behaviour()
def a_session_rate_holds_and_is_each_connections_own():
    """The clock is a pair that has a relay to itself: those who share one keep up with it."""
    rate, size = 1_000_000, 3_000_000
    options = [f"--session-rate={rate}/s"]
    with Relay(options=options) as apart, Relay(options=options) as shared:
        clock, *others = streams = [Stream(apart), *(Stream(shared) for _ in range(4))]
        started = time.monotonic()
        for stream in streams:
            stream.start()
        wait_until(lambda: clock.arrived >= size, f"{size} bytes at 1 MB/s", 120)
        took, arrived = time.monotonic() - started, [stream.arrived for stream in others]
    for stream in streams:
        stream.join()
    # A rate for all four together would have let through a quarter to each.
    assert min(arrived) >= size / 2, (size, arrived)
    # Nothing is asserted on how fast it is, only that it was held back at all.
    assert took > size / rate / 3, took


@behaviour()
def a_bad_option_is_one_line_and_status_2():
    for options in (["--linger=-1"], ["--no-such"], ["--session-bytes=1XB"], ["extra"], ["--listen="]):
        result = subprocess.run([RELAY, "serve", *options], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        assert result.returncode == 2, (options, result)
        assert result.stderr.count(b"\n") == 1 and result.stdout == b"", (options, result)


@behaviour()
def a_port_in_use_is_status_1_and_says_so():
    with socket.socket() as taken, tempfile.TemporaryDirectory() as directory:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = subprocess.run(
            [RELAY, "serve", f"--listen=127.0.0.1:{port}", f"--runtime-dir={directory}/run",
             f"--state-dir={directory}/state"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        assert result.returncode == 1, result
        assert f"127.0.0.1:{port}".encode() in result.stderr, result


@behaviour()
def a_forwarder_short_of_descriptors_serves_those_it_has_and_recovers():
    with Relay(limit=100) as relay:
        pair = make_pair(relay)
        waiting = [relay.connect().send(line(new_token())) for _ in range(150)]
        wait_until(lambda: "no more connections are taken" in relay.log(), "the shortage")
        exchange(*pair)
        for client in waiting:
            client.close()
        relay.wait_for(used=2)
        exchange(*pair)
        exchange(*make_pair(relay))


@behaviour()
def sigterm_ends_it_with_its_processes_and_status_0():
    relay = Relay()
    pair = make_pair(relay)
    waiting = relay.connect().send(line(new_token()))
    relay.wait_for(waiting=1, joined=2)
    processes = [*relay.workers(), relay.forwarder()]
    assert all(processes), processes
    assert relay.stop() == 0
    for client in (*pair, waiting):
        client.expect_end()
    for pid in processes:
        wait_until(lambda pid=pid: not alive(pid), "a process to end")


@behaviour()
def a_worker_serves_its_share_and_is_replaced():
    with Relay(options=["--max-use=2"]) as relay:
        wait_until(relay.workers, "workers")
        before = set(relay.workers())
        for _ in range(20):
            first, second = make_pair(relay)
            first.close()
            second.close()
        wait_until(lambda: len(relay.workers()) >= 2 and not before & set(relay.workers()),
                   "all to be replaced")


# Its rest is consumed as it comes, so it keeps a worker.
HALF_OF_OFFSET = b"\0\0\0\0\0\0\0\4\0\0\0\0"


@behaviour()
def more_handshakes_than_spares_get_more_workers_which_retire_when_idle():
    with Relay(options=["--handshake-timeout=30"]) as relay:
        silent = [relay.connect().send(HALF_OF_OFFSET) for _ in range(40)]
        wait_until(lambda: len(relay.workers()) >= 40, "a worker for each")
        relay.wait_for(greeting=40)
        assert len(relay.workers()) >= 40, len(relay.workers())
        make_pair(relay)
        for client in silent:
            client.close()
        wait_until(lambda: len(relay.workers()) <= 8, "idle workers to retire", 60)


@behaviour()
def handshakes_that_fill_all_workers_give_way():
    with Relay(options=["--max-workers=4", "--handshake-timeout=60"]) as relay:
        silent = [relay.connect().send(HALF_OF_OFFSET) for _ in range(12)]
        relay.wait_for(greeting=12)
        exchange(*make_pair(relay))
        for client in silent:
            client.close()


@behaviour("accept", "inetd")
def a_forwarder_started_on_demand_retires_when_idle_and_comes_again(how):
    with Relay(how) as relay:
        for _ in range(2):
            first, second = make_pair(relay)
            forwarder = relay.forwarder()
            assert forwarder, "a forwarder runs"
            time.sleep(3)  # longer than the idle timeout: it is not idle
            exchange(first, second)
            first.close()
            second.close()
            wait_until(lambda pid=forwarder: not alive(pid), "the forwarder to retire")
            assert not os.path.exists(os.path.join(relay.runtime, "forward.sock"))


@behaviour()
def pairs_outlive_a_server_that_uses_another_forwarder():
    with tempfile.TemporaryDirectory(prefix="relay-forward-") as directory:
        os.chmod(directory, 0o777)
        runtime = os.path.join(directory, "run")
        forwarder = subprocess.Popen(
            [RELAY, "forward", f"--runtime-dir={runtime}", "--idle-timeout=0"],
            stdin=subprocess.DEVNULL)
        try:
            wait_until(lambda: os.path.exists(os.path.join(runtime, "forward.sock")), "its socket")
            relay = Relay(options=[f"--runtime-dir={runtime}"])
            relay.runtime = runtime
            wait_until(lambda: "using the forwarder" in relay.log(), "it to say so")
            first, second = make_pair(relay)
            waiting = relay.connect().send(line(TOKEN := new_token(), new_side()))
            relay.wait_for(waiting=1)
            relay.runtime = "/nonexistent"
            assert relay.stop() == 0
            exchange(first, second)
            with Relay(options=[f"--runtime-dir={runtime}"]) as relay:
                other = relay.connect().send(line(TOKEN, new_side())).expect(b"ok\n")
                waiting.expect(b"ok\n")
                exchange(waiting, other)
                exchange(first, second)
        finally:
            forwarder.terminate()
            forwarder.wait(PATIENCE)


@behaviour()
def nothing_leaks_over_a_thousand_connections():
    with Relay() as relay:
        make_pair(relay)
        forwarder = relay.forwarder()

        def round_of_pairs(count):
            for _ in range(count):
                first, second = make_pair(relay)
                exchange(first, second, 100_000)
                first.close()
                second.close()

        round_of_pairs(20)
        relay.wait_for(used=0)
        before = len(descriptors(forwarder))
        round_of_pairs(500)
        relay.wait_for(used=0)
        wait_until(lambda: len(descriptors(forwarder)) <= before, "descriptors to be closed")


if __name__ == "__main__":
    run()
