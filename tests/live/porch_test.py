"""A client that has sent nothing, or half of a greeting, keeps no worker while others wait: it stands on the
porch until the rest has come, is served then, and goes at its deadline, or when there is no room and
its source has the most there."""

import os
import signal
import subprocess
import time

from harness import (RELAY, Relay, alive, behaviour, children, close_all, descriptors, exchange,
                     line, make_pair, new_side, new_token, process_name, run, wait_until)
from tls_client import FIRST, client_hello
from web_protocols import hello, new_code
from websocket_client import frame, get, TEXT, upgrade_request


OFFSET_FRAME = b"\0\0\0\0\0\0\0\4\0\0\0\0"
HTTP = b"GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n"
PROXY = b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 4001\r\n"

# What a client says first, at how many bytes it stops, and how an answer to all of it begins.
HALVES = {
    "nothing": (HTTP, 0, b"HTTP/1.1 200"),
    "one byte": (HTTP, 1, b"HTTP/1.1 200"),
    "half a line": (line(b"x" * 63), 30, b"bad handshake\n"),
    "half a request": (HTTP, 20, b"HTTP/1.1 200"),
    "half of TLS": (client_hello(), 100, b"\x16\x03"),
    "three bytes of TLS": (client_hello(), 3, b"\x16\x03"),
    "half of Offset's first frame": (OFFSET_FRAME, 9, b"\0\0\0\0\0\0\0\4"),
}
TLS = FIRST.options()


def on_porch(relay, count):
    wait_until(lambda: (relay.status() or {}).get("on_porch") == count, f"{count} on the porch")


def porch_of(relay):
    found = [pid for pid in children(relay.process.pid) if process_name(pid) == "relay-porch"]
    return found[0] if found else 0


# ---- a client on the porch keeps no worker ------------------------------------------------------


@behaviour(*HALVES)
def more_clients_than_workers_stay_on_the_porch_while_others_are_served(half):
    said, stop, answer = HALVES[half]
    with Relay(options=["--max-workers=4", "--handshake-timeout=60", *TLS]) as relay:
        clients = [relay.connect().send(said[:stop]) for _ in range(30)]
        on_porch(relay, 30)
        assert len(relay.workers()) <= 4
        for _ in range(10):
            close_all(*make_pair(relay))
        relay.wait_for(greeting=30, used=30)
        for client in clients:
            client.send(said[stop:]).expect(answer)
        close_all(*clients)
        relay.wait_for(used=0)


@behaviour()
def a_client_that_is_silent_after_its_upgrade_keeps_no_worker():
    with Relay(options=["--max-workers=4", "--handshake-timeout=60"]) as relay:
        clients = [relay.connect().send(upgrade_request()) for _ in range(20)]
        for client in clients:
            client.expect(b"HTTP/1.1 101")
        on_porch(relay, 20)
        for _ in range(10):
            close_all(*make_pair(relay))
        code = new_code()
        first = frame(TEXT, hello(code, "sender").encode())
        for client in clients[1:]:
            client.send(first[:11])
        close_all(*make_pair(relay))
        relay.wait_for(greeting=20)
        clients[0].send(first)
        relay.wait_for(greeting=19, waiting=1)
        clients[1].send(frame(TEXT, hello(code, "receiver").encode())[11:])
        close_all(*clients)
        relay.wait_for(used=0)


@behaviour()
def half_a_header_of_a_proxy_keeps_no_worker():
    options = ["--max-workers=4", "--handshake-timeout=60", "--trusted-proxy=127.0.0.1"]
    with Relay(options=options) as relay:
        clients = [relay.connect().send(PROXY[:15]) for _ in range(10)]
        silent = [relay.connect().send(PROXY) for _ in range(10)]
        on_porch(relay, 10)  # whose header is whole: the others have no slot yet
        token = new_token()
        first = relay.connect().send(PROXY + line(token, new_side()))
        clients[0].send(PROXY[15:] + line(token, new_side()))
        exchange(clients[0].expect(b"ok\n"), first.expect(b"ok\n"))
        token = new_token()
        clients[1].send(PROXY[15:] + line(token, new_side()))
        silent[0].send(line(token, new_side()))
        exchange(clients[1].expect(b"ok\n"), silent[0].expect(b"ok\n"))


@behaviour()
def a_client_that_sends_its_line_byte_by_byte_is_served_when_the_line_is_complete():
    with Relay(options=["--max-workers=2", "--handshake-timeout=60"]) as relay:
        token = new_token()
        slow, other = relay.connect(), relay.connect().send(line(token, new_side()))
        for byte in line(token, new_side()):
            slow.send(bytes([byte]))
            relay.status()  # which takes a moment
        exchange(slow.expect(b"ok\n"), other.expect(b"ok\n"))


@behaviour()
def a_client_that_hangs_up_on_the_porch_is_forgotten():
    with Relay(options=["--handshake-timeout=60"]) as relay:
        silent, half, reset = (relay.connect() for _ in range(3))
        half.send(b"please relay 0123")
        reset.send(b"please relay 0123")
        on_porch(relay, 3)
        silent.close()
        half.finish()
        half.expect_end()
        reset.reset()
        relay.wait_for(used=0)
        assert relay.outcomes()["empty"] == 3, relay.outcomes()


@behaviour("half a line", "nothing")
def the_deadline_holds_on_the_porch(half):
    said, stop, _ = HALVES[half]
    with Relay(options=["--handshake-timeout=3"]) as relay:
        client = relay.connect().send(said[:stop])
        on_porch(relay, 1)
        client.expect_end()
        relay.wait_for(used=0)
        assert relay.outcomes()["empty"] == 1, relay.outcomes()


# ---- how many may stand there --------------------------------------------------------------


@behaviour()
def the_oldest_of_a_source_that_has_its_share_is_closed_and_then_of_the_source_that_has_the_most():
    # 21 places, 6 for one source
    with Relay(options=["--max-connections=40", "--handshake-timeout=60"]) as relay:
        crowd = []
        for count in range(1, 7):
            crowd.append(relay.connect(source="127.0.0.2").send(b"p"))
            on_porch(relay, count)
        crowd.append(relay.connect(source="127.0.0.2").send(b"p"))
        crowd[0].expect_end()
        on_porch(relay, 6)
        others = []
        for count in range(15):
            others.append(relay.connect(source=f"127.0.0.{3 + count % 5}").send(b"p"))
            on_porch(relay, 7 + count)
        others.append(relay.connect(source="127.0.0.20").send(b"p"))
        crowd[1].expect_end()
        on_porch(relay, 21)
        close_all(*make_pair(relay))
        for client in (*crowd[2:], *others):
            client.expect_silence()


@behaviour()
def limits_count_the_clients_on_the_porch():
    with Relay(options=["--per-source=3", "--handshake-timeout=60"]) as relay:
        clients = [relay.connect().send(b"please ") for _ in range(3)]
        on_porch(relay, 3)
        with relay.connect() as fourth:
            fourth.send(line(new_token())).expect_end()
        relay.wait_for_outcomes(crowded=1)
        clients[0].close()
        relay.wait_for(used=2)
        clients.append(relay.connect().send(line(new_token())))
        relay.wait_for(waiting=1)


@behaviour()
def a_client_that_must_keep_a_worker_waits_while_complete_greetings_are_served():
    with Relay(options=["--max-workers=4", "--handshake-timeout=60"]) as relay:
        clients = [relay.connect().send(OFFSET_FRAME) for _ in range(20)]
        relay.wait_for(greeting=20)
        for _ in range(10):
            close_all(*make_pair(relay))
        close_all(*clients)
        relay.wait_for(used=0)


# ---- a refused client waits there until it has read why ---------------------------------------

REFUSED = {
    "a line": (b"please relay nothing\n", b"bad handshake\n"),
    "a path": (b"GET /nothing HTTP/1.1\r\nHost: relay\r\n\r\n", b"HTTP/1.1 404"),
    "a line with more behind it": (b"please relay nothing\n" + bytes(20000), b"bad handshake\n"),
}


@behaviour(*REFUSED)
def a_refused_client_that_stays_keeps_no_worker(what):
    said, answer = REFUSED[what]
    with Relay(options=["--max-workers=4"]) as relay:
        clients = []
        for _ in range(30):
            clients += [relay.connect().send(said) for _ in range(4)]
            exchange(*make_pair(relay))
        for client in clients:
            client.expect(answer)
            while client.receive(4096):
                pass
        assert len(relay.workers()) <= 4
        # None of them has closed, and yet all are gone from the relay.
        relay.wait_for(used=0)
        wait_until(lambda: len(descriptors(porch_of(relay))) < 10, "the porch to be empty")
        close_all(*clients)


@behaviour()
def a_refused_client_that_goes_on_sending_is_closed():
    with Relay(options=["--max-workers=4"]) as relay:
        client = relay.connect().send(b"please relay nothing\n").expect(b"bad handshake\n")
        try:
            for _ in range(100):
                client.send(bytes(65536))
            raise AssertionError("it may say 6 MB and more")
        except OSError:
            pass
        exchange(*make_pair(relay))


@behaviour()
def a_refused_client_gives_its_place_on_the_porch_to_others():
    with Relay(options=["--max-connections=40", "--handshake-timeout=60"]) as relay:
        refused = [relay.connect(source=f"127.0.1.{1 + i}").send(b"please relay nothing\n") for i in range(100)]
        token = new_token()
        halves = [relay.connect().send(line(token)[:20]) for _ in range(2)]
        on_porch(relay, 2)
        refused += [relay.connect(source=f"127.0.2.{1 + i}").send(b"please relay nothing\n") for i in range(100)]
        for client in refused:
            client.expect(b"bad handshake\n")
        for half in halves:
            half.send(line(token)[20:])
        exchange(halves[0].expect(b"ok\n"), halves[1].expect(b"ok\n"))
        close_all(*refused)


# ---- the porch dies, or is told to -----------------------------------------------------------


@behaviour()
def a_porch_that_is_killed_leaves_no_slot_and_is_replaced():
    with Relay(options=["--handshake-timeout=60"]) as relay:
        clients = [relay.connect().send(b"please ") for _ in range(20)]
        on_porch(relay, 20)
        porch = porch_of(relay)
        os.kill(porch, signal.SIGKILL)
        for client in clients:
            client.expect_end()
        relay.wait_for(used=0)
        exchange(*make_pair(relay))
        wait_until(lambda: porch_of(relay) not in (0, porch), "another porch")
        token = new_token()
        late = relay.connect().send(line(token)[:20])
        on_porch(relay, 1)
        other = relay.connect().send(line(token))
        late.send(line(token)[20:])
        exchange(late.expect(b"ok\n"), other.expect(b"ok\n"))


@behaviour()
def a_connection_on_its_way_to_a_porch_that_is_killed_is_taken_by_the_next_porch():
    with Relay(options=["--handshake-timeout=60"]) as relay:
        porch = wait_until(lambda: porch_of(relay), "the porch")
        os.kill(porch, signal.SIGSTOP)
        token = new_token()
        halves = [relay.connect().send(line(token)[:20]) for _ in range(2)]
        on_porch(relay, 2)
        exchange(*make_pair(relay))
        os.kill(porch, signal.SIGKILL)
        for half in halves:
            half.send(line(token)[20:])
        exchange(halves[0].expect(b"ok\n"), halves[1].expect(b"ok\n"))


@behaviour("somebody stands there", "nobody does")
def a_porch_that_stands_still_is_replaced(when):
    with Relay(options=["--handshake-timeout=60"]) as relay:
        stalled = wait_until(lambda: porch_of(relay), "the porch")
        if when == "somebody stands there":
            lost = relay.connect().send(b"please ")
            on_porch(relay, 1)
        os.kill(stalled, signal.SIGSTOP)
        token = new_token()
        halves = [relay.connect().send(line(token)[:20]) for _ in range(2)]
        wait_until(lambda: porch_of(relay) not in (0, stalled), "another porch")
        for half in halves:
            half.send(line(token)[20:])
        exchange(halves[0].expect(b"ok\n"), halves[1].expect(b"ok\n"))
        if when == "somebody stands there":
            lost.expect_end()
        assert "the porch has not moved for 2 s: replacing it" in relay.log()


@behaviour()
def a_porch_that_has_nothing_to_do_is_not_replaced():
    with Relay(options=["--handshake-timeout=60"]) as relay:
        first = wait_until(lambda: porch_of(relay), "the porch")
        client = relay.connect().send(b"please ")
        on_porch(relay, 1)
        os.kill(first, signal.SIGSTOP)
        os.kill(relay.process.pid, signal.SIGSTOP)  # all stand still, as in a container that is paused
        time.sleep(3)
        os.kill(first, signal.SIGCONT)
        os.kill(relay.process.pid, signal.SIGCONT)
        client.send(b"nothing\n").expect(b"bad handshake\n")
        assert porch_of(relay) == first


@behaviour()
def stopping_ends_the_clients_on_the_porch_and_the_porch():
    relay = Relay(options=["--handshake-timeout=60"])
    clients = [relay.connect().send(b"please ") for _ in range(20)]
    on_porch(relay, 20)
    processes = [porch_of(relay), *relay.workers()]
    assert relay.stop() == 0
    for client in clients:
        client.expect_end()
    for pid in processes:
        wait_until(lambda pid=pid: not alive(pid), "a process to end")


@behaviour()
def the_porch_ends_with_a_server_that_is_killed():
    relay = Relay(options=["--handshake-timeout=60"])
    client = relay.connect().send(b"please ")
    on_porch(relay, 1)
    porch = porch_of(relay)
    os.kill(relay.process.pid, signal.SIGKILL)
    client.expect_end()
    wait_until(lambda: not alive(porch), "the porch to end")
    relay.stop()


@behaviour()
def the_status_counts_the_clients_on_the_porch():
    with Relay(options=["--handshake-timeout=60"]) as relay:
        client = relay.connect()
        on_porch(relay, 1)
        relay.wait_for(greeting=1)
        assert get(relay, "/healthz").status == 200
        command = [RELAY, "status", f"--runtime-dir={relay.runtime}"]
        text = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
        assert b"greeting     1, 1 on the porch\n" in text, text
        text = subprocess.run([*command, "--openmetrics"], stdout=subprocess.PIPE, check=True).stdout
        assert b"relay_on_porch 1\n" in text, text
        client.close()


if __name__ == "__main__":
    run()
