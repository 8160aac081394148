"""A WebSocket client that is silent is asked whether it is there, about every 25 seconds, so that
a waiting client survives the timeouts of proxies (60 seconds), and a client that is gone is found."""

import os
import time

from harness import Relay, behaviour, close_all, line, new_side, new_token, run, send_until_blocked
from offset_relay import Task
from tls_client import FIRST, secure_relay
from web_protocols import (PAIRS, connection, exchange, introduced, new_code, p2p_pair,
                           receive_bytes, sender, transit)
from websocket_client import BINARY, PING, PONG, Closed, frame

PATIENCE = 180
TOO_SOON = 15  # seconds between two pings, which are 25 apart


def attend(client, answers, until):
    """How many pings come, up to `until`, or before the end. Answers them, or does not."""
    pings, since = 0, time.monotonic()
    try:
        while pings < until:
            _, opcode, payload = client.receive_frame()
            if opcode == PING:
                assert time.monotonic() - since > TOO_SOON, "pings come too close to each other"
                pings, since = pings + 1, time.monotonic()
                if answers:
                    client.send_frame(PONG, payload)
    except Closed:
        pass
    return pings


def silent(client, answers=True, until=3):
    """A client that sends nothing but answers to pings, or nothing at all, and counts the pings."""
    return Task(attend, client, answers, until)


def counted(ends):
    """The pings of each, when they have all had theirs, or have been closed."""
    return [end.result() for end in ends]


def a_waiting_client_is_pinged(relay):
    clients = [transit(relay, new_token(), patience=PATIENCE),
               introduced(relay, "listener", patience=PATIENCE),
               connection(relay, "alice", "bob", "doc", patience=PATIENCE)]
    assert counted([silent(client) for client in clients]) == [3, 3, 3]
    for client in clients:
        client.settle()  # is still served
    close_all(*clients)


def a_waiting_client_that_answers_no_ping_is_dropped(relay):
    clients = [transit(relay, new_token(), patience=PATIENCE),
               introduced(relay, "deaf", patience=PATIENCE)]
    assert counted([silent(client, answers=False, until=9) for client in clients]) == [2, 2]
    close_all(*clients)


def a_client_that_sends_is_not_pinged(relay):
    with introduced(relay, "talker", patience=PATIENCE) as talker, \
            introduced(relay, "beside", patience=PATIENCE) as beside:
        clock = silent(beside)
        while clock.is_alive():
            talker.send_frame(PING, b"?").expect_pong(b"?")
            time.sleep(1)


def both_ends_of_a_pair_are_pinged(relay):
    pairs = [pair(relay, patience=PATIENCE) for pair in PAIRS.values()]
    token = new_token()
    tcp = relay.connect().send(line(token, new_side()))
    web = transit(relay, token, new_side(), patience=PATIENCE)
    web.expect_binary(b"ok\n")
    tcp.expect(b"ok\n")
    ends = [web, *(end for pair in pairs for end in pair)]
    assert counted([silent(end) for end in ends]) == [3] * len(ends)
    for pair in pairs:
        exchange(*pair)
    data = os.urandom(1000)
    tcp.send(data)
    assert receive_bytes(web, len(data)) == data
    web.send_binary(data)
    tcp.expect(data)  # and no ping has come to the one over TCP
    close_all(tcp, *ends)


def an_end_that_misses_two_is_dropped_with_its_pair(relay):
    pairs = [pair(relay, patience=PATIENCE) for pair in PAIRS.values()]
    ends = [(silent(deaf, answers=False, until=9), silent(other, until=9)) for deaf, other in pairs]
    for deaf, other in map(counted, ends):
        assert deaf == 2 and other < 9, (deaf, other)
    close_all(*(end for pair in pairs for end in pair))


def an_end_that_only_listens_is_pinged_and_one_that_talks_is_not(relay):
    talking, listening = p2p_pair(relay, patience=PATIENCE)
    listener, talker = silent(listening), silent(talking, until=9)
    while listener.is_alive():
        talking.send_text("and so on")
        time.sleep(1)
    talking.send_close()
    assert counted([listener, talker]) == [3, 0]
    close_all(talking, listening)


def a_vanished_client_that_is_not_read_is_dropped(_):
    """A waiting client: its end of file is behind bytes that are not read, and never arrives."""
    with secure_relay() as relay:
        clients = [connection(relay, "alice", "bob", "plain"), sender(relay, new_code()),
                   connection(relay, "alice", "bob", "secure", context=FIRST.context())]
        relay.wait_for(waiting=3)
        for client in clients:
            send_until_blocked(client, frame(BINARY, bytes(10_000)))
        relay.wait_for(waiting=3)
        close_all(*clients)
        relay.wait_for(waiting=0, used=0, patience=60)


@behaviour()
def silent_clients_are_pinged_alone_and_in_pairs_and_closed_after_two_unanswered_pings():
    """All at once, as each takes more than a minute."""
    with Relay() as relay:
        for task in [Task(check, relay) for check in (
                a_waiting_client_is_pinged, a_waiting_client_that_answers_no_ping_is_dropped,
                a_client_that_sends_is_not_pinged,
                a_vanished_client_that_is_not_read_is_dropped,
                both_ends_of_a_pair_are_pinged, an_end_that_misses_two_is_dropped_with_its_pair,
                an_end_that_only_listens_is_pinged_and_one_that_talks_is_not)]:
            task.result()
        relay.wait_for(used=0)


if __name__ == "__main__":
    run()
