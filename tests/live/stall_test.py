"""Clients that stall, or flood, hold nobody else up, and leave nothing behind when they go: those who
never read, who send one byte at a time, who stop in the middle of something, who ask for more than
they take. And a forwarder that stalls loses no client that came meanwhile."""

import contextlib
import os
import signal
import tempfile
import threading
import time

from harness import (Relay, behaviour, exchange as exchange_bytes, line, make_pair, narrow,
                     new_side, new_token, run, send_until_blocked)
from web_protocols import PAIRS, connection, connection_pair, exchange, hello, new_code, p2p_pair
from websocket_client import BINARY, PING, WebSocket, frame


PINGS = frame(PING, bytes(100)) * 100


@behaviour("waiting", "holding", "introduced", "paired")
def a_client_that_floods_with_pings_and_reads_no_answer_is_not_read_and_is_forgotten_when_it_leaves(how):
    with Relay() as relay:
        others = []
        if how == "waiting":
            client = WebSocket(relay, "/").send_text(hello(new_code(), "sender"))
        elif how == "holding":
            client = connection(relay, "alice", "bob", "doc")
        elif how == "introduced":
            client = WebSocket(relay, "/introduction/alice")
        else:
            client, *others = connection_pair(relay)
        send_until_blocked(narrow(client), PINGS)
        exchange(*p2p_pair(relay))
        client.reset()
        relay.wait_for(used=0)
        for other in others:
            other.expect_closed()


@behaviour()
def a_client_that_leaves_while_the_relay_holds_all_it_may_hold_for_it_is_forgotten():
    with Relay() as relay:
        client = connection(relay, "alice", "bob", "doc")
        # A little more than the 256 KiB that are held. The rest has to fit into the socket's buffer,
        # or the client's end does not arrive.
        for _ in range(270):
            client.send_binary(bytes(1000))
        client.close()
        relay.wait_for(used=0)


@behaviour("waiting", "introduced", "paired")
def a_client_that_breaks_the_protocol_and_goes_on_sending_reads_the_reason_before_the_end(how):
    with Relay() as relay:
        if how == "waiting":
            client = WebSocket(relay, "/").send_text(hello(new_code(), "sender"))
        elif how == "introduced":
            client = WebSocket(relay, "/introduction/alice")
        else:
            client, _ = connection_pair(relay)
        with contextlib.suppress(BrokenPipeError):
            client.send(frame(BINARY, reserved=1) + bytes(4 << 20))
        client.expect_close(1002)
        relay.wait_for(used=0)


@behaviour("plain", *PAIRS)
def the_limit_of_a_pair_holds_also_when_its_reader_is_slow(how):
    limit = 8 << 20
    with Relay(options=[f"--session-bytes={limit}"]) as relay:
        first, second = make_pair(relay) if how == "plain" else PAIRS[how](relay)
        narrow(second, 1 << 17)
        data = bytes(1 << 20) if how == "plain" else frame(BINARY, bytes(1 << 20))

        def send():
            with contextlib.suppress(ConnectionError):
                for _ in range(64):
                    first.send(data)

        thread = threading.Thread(target=send)
        thread.start()
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while part := second.socket.recv(1 << 14):
                received += len(part)
        thread.join()
        assert limit <= received <= limit + (2 << 20), received
        relay.wait_for(used=0)


ARRIVAL_TIME = 2  # seconds that a match waits for a descriptor


@behaviour()
def a_client_that_connects_while_the_forwarder_stands_still_is_served_once_it_goes_on():
    with Relay() as relay:
        exchange_bytes(*make_pair(relay))
        forwarder = relay.forwarder()
        token = new_token()
        os.kill(forwarder, signal.SIGSTOP)
        try:
            first = relay.connect().send(line(token, new_side()))
            second = relay.connect().send(line(token, new_side()))
            lonely = relay.connect().send(line(other_token := new_token()))
            relay.wait_for(matched=2, waiting=1)
            time.sleep(ARRIVAL_TIME + 0.5)
        finally:
            os.kill(forwarder, signal.SIGCONT)
        exchange_bytes(first.expect(b"ok\n"), second.expect(b"ok\n"))
        exchange_bytes(relay.connect().send(line(other_token)).expect(b"ok\n"), lonely.expect(b"ok\n"))


@behaviour()
def a_client_that_cannot_be_handed_over_while_the_forwarder_stands_still_is_closed_and_keeps_no_worker():
    patience = 3
    options = [f"--handshake-timeout={patience}"]
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)
        with Relay(options=[*options, f"--usage-db={directory}/usage.sqlite"]) as relay:
            exchange_bytes(*make_pair(relay))
            forwarder = relay.forwarder()
            os.kill(forwarder, signal.SIGSTOP)
            try:
                crowd = [relay.connect().send(line(token, new_side()))
                         for token in (new_token() for _ in range(20)) for _ in range(2)]
                crowd[-1].expect_end()
                time.sleep(2 * patience + 1)
            finally:
                os.kill(forwarder, signal.SIGCONT)
            assert "killed by signal" not in relay.log(), relay.log()
            for client in crowd:
                client.close()


@behaviour()
def a_client_that_connects_while_descriptors_are_short_is_served_once_some_are_free():
    with Relay(limit=96) as relay:
        crowd = [relay.connect().send(line(new_token())) for _ in range(96)]
        token = new_token()
        first = relay.connect().send(line(token, new_side()))
        second = relay.connect().send(line(token, new_side()))
        relay.wait_for(matched=2)
        time.sleep(2 * ARRIVAL_TIME + 0.5)  # for two sweeps that undo matches
        for client in crowd:
            client.close()
        exchange_bytes(first.expect(b"ok\n"), second.expect(b"ok\n"))


if __name__ == "__main__":
    run()
