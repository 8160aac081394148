"""Clients that stall, or flood, hold nobody else up, and leave nothing behind when they go: those who
never read, who send one byte at a time, who stop in the middle of something, who ask for more than
they take."""

import contextlib
import threading

from harness import (PATIENCE, Relay, behaviour, make_pair, narrow, run,
                     send_until_blocked)
from web_protocols import PAIRS, connection, connection_pair, exchange, hello, new_code, p2p_pair
from websocket_client import BINARY, PING, WebSocket, frame


PINGS = frame(PING, bytes(100)) * 100


@behaviour("waiting", "holding", "introduced", "paired")
def who_floods_with_pings_and_reads_no_answer_is_stopped_and_gone_when_it_goes(how):
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
def who_goes_while_all_that_it_may_say_is_held_is_forgotten():
    with Relay() as relay:
        client = connection(relay, "alice", "bob", "doc")
        for _ in range(300):
            client.send_binary(bytes(1000))
        client.close()
        relay.wait_for(used=0)


@behaviour("waiting", "introduced", "paired")
def who_breaks_the_protocol_and_sends_on_is_told_so_before_the_end(how):
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


if __name__ == "__main__":
    run()
