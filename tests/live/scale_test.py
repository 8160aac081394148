"""Thousands at once: 8,000 connections wait and 4,000 pairs are idle, and a new pair costs what it
did before; a flood of connections leaves everything as it was."""

import os
import resource
import socket
import statistics
import time

from harness import (PATIENCE, Relay, Skip, behaviour, exchange, line, make_pair, new_side,
                     new_token, private_memory, run, wait_until)
from offset_client import no_padding
from offset_relay import OffsetRelay
from web_protocols import connection, hello, introduced, new_code
from websocket_client import WebSocket

WAITING, PAIRS = 8000, 4000
MESSENGERS = 2000


def need_descriptors(count):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise Skip(f"this machine allows {hard} descriptors, {count} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connect_many(relay, count, token_of, index_of_source):
    """Connections from several loopback addresses, as one address has too few ports for all."""
    clients = []
    for i in range(count):
        client = socket.socket()
        client.bind((f"127.0.0.{2 + index_of_source + i % 4}", 0))
        client.connect(("127.0.0.1", relay.port))
        client.sendall(line(token_of(i), new_side()))
        clients.append(client)
    return clients


def processor_time(relay):
    """Seconds of processor time that relay's processes have used so far, dead ones included."""
    ticks = 0
    for pid in (relay.process.pid, relay.forwarder(), *relay.workers()):
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
        if pid == relay.process.pid:
            ticks += int(fields[13]) + int(fields[14])
    return ticks / os.sysconf("SC_CLK_TCK")


def cost_of_a_pair(relay, count=600):
    """Processor time per new pair, and the median time that one takes."""
    times = []
    before = processor_time(relay)
    for _ in range(count):
        started = time.perf_counter()
        first, second = make_pair(relay)
        times.append(time.perf_counter() - started)
        first.close()
        second.close()
    return (processor_time(relay) - before) / count, statistics.median(times)


@behaviour()
def eight_thousand_wait_beside_four_thousand_idle_pairs():
    need_descriptors(20000)
    with Relay() as relay:
        cost_of_a_pair(relay)
        empty = cost_of_a_pair(relay)
        relay.wait_for(used=0)
        held = connect_many(relay, WAITING, lambda i: new_token(), 0)
        relay.wait_for(waiting=WAITING, patience=60)
        tokens = [new_token() for _ in range(PAIRS)]
        first = connect_many(relay, PAIRS, lambda i: tokens[i], 4)
        second = connect_many(relay, PAIRS, lambda i: tokens[i], 8)
        for client in (*first, *second):
            client.settimeout(PATIENCE)
            assert client.recv(3) == b"ok\n"
        relay.wait_for(waiting=WAITING, joined=2 * PAIRS, patience=60)
        full = cost_of_a_pair(relay)
        print(f"#   a new pair: {empty[0] * 1e6:.0f} us of processor time and {empty[1] * 1e6:.0f} us"
              f" in all when empty, {full[0] * 1e6:.0f} us and {full[1] * 1e6:.0f} us when full")
        for i in range(0, PAIRS, 97):
            first[i].sendall(b"still there?")
            assert second[i].recv(12) == b"still there?"
        for client in (*held, *first, *second):
            client.close()
        relay.wait_for(used=0, patience=60)


def wait_in_p2p_copy(relay):
    return WebSocket(relay).send_text(hello(new_code(), "receiver"))


def wait_in_localfirst(relay):
    return connection(relay, "alice", "bob", new_code())


def wait_for_introductions(relay):
    return introduced(relay, new_code(), new_code())


def listen_in_offset(relay):
    return relay.open(lively=False, padding=no_padding).listen()


@behaviour("p2p-copy", "localfirst", "introductions", "offset")
def thousands_wait_for_little_memory_and_are_forgotten_when_they_go(who):
    come = {"p2p-copy": wait_in_p2p_copy, "localfirst": wait_in_localfirst,
            "introductions": wait_for_introductions, "offset": listen_in_offset}[who]
    need_descriptors(5000)
    with OffsetRelay() as relay:
        come(relay).close()
        relay.wait_for(used=0)
        before = private_memory(relay.forwarder())
        clients = [come(relay) for _ in range(MESSENGERS)]
        relay.wait_for(waiting=MESSENGERS, patience=60)
        each = (private_memory(relay.forwarder()) - before) / MESSENGERS
        print(f"#   {each:.0f} bytes of memory for each that waits")
        assert each <= 4096, each
        for client in clients:
            client.close()
        relay.wait_for(used=0, patience=60)
        exchange(*make_pair(relay))


@behaviour("serve", "accept")
def a_flood_of_two_thousand_connections_leaves_it_listening(how):
    need_descriptors(5000)
    with Relay(how) as relay:
        pair = make_pair(relay)
        flood = []
        for _ in range(2000):
            client = socket.create_connection(("127.0.0.1", relay.port))
            flood.append(client)
            if len(flood) >= 200:
                flood.pop(0).close()
        for client in flood:
            client.close()
        relay.wait_for(used=2, patience=60)
        exchange(*pair)
        exchange(*make_pair(relay))
        wait_until(lambda: relay.process.poll() is None, "it to run")


if __name__ == "__main__":
    run()
