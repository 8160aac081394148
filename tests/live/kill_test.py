"""Any process may die, or stall, at any moment: the table comes back clean, every pair that the
dead one did not hold carries on, and a new pair can always be made."""

import os
import random
import signal
import threading
import time

import web_protocols as web
from harness import (Relay, alive, behaviour, descriptors, exchange, line, make_pair, new_side,
                     new_token, run, wait_until)
from offset_client import Closed as OffsetClosed
from offset_client import Identity, no_padding
from offset_relay import OffsetRelay
from offset_relay import exchange as exchange_through_tunnel
from websocket_client import Closed, WebSocket

WORKER_KILLS = int(os.environ.get("WORKER_KILLS", "3000"))
FORWARDER_KILLS = int(os.environ.get("FORWARDER_KILLS", "40"))


# ---- what clients of each protocol do ---------------------------------------------------
# Each meets once, and has `hold` see to it that what it opens is closed.

HASTE = 3  # seconds until a client gives up


def meet_by_transit(relay, hold):
    token = new_token()
    first, second = hold(relay.connect(HASTE)), hold(relay.connect(HASTE))
    first.send(line(token, new_side()))
    second.send(line(token, new_side()))
    first.expect(b"ok\n")
    second.expect(b"ok\n")
    exchange(first, second, 2000)


def meet_by_p2p_copy(relay, hold):
    code = web.new_code()
    sender, receiver = (hold(WebSocket(relay, patience=HASTE)) for _ in range(2))
    receiver.send_text(web.hello(code, "receiver"))
    sender.send_text(web.hello(code, "sender")).expect_text('{"type":"ready"}')
    web.exchange(sender, receiver, 2000)


def be_introduced(relay, hold):
    document = os.urandom(8).hex()
    alice, bob = (hold(web.introduced(relay, os.urandom(8).hex(), document, patience=HASTE))
                  for _ in range(2))
    web.introduction(alice)
    web.introduction(bob)


def be_connected(relay, hold):
    document = os.urandom(8).hex()
    alice = hold(web.connection(relay, "alice", "bob", document, patience=HASTE))
    alice.send_binary(b"early")
    bob = hold(web.connection(relay, "bob", "alice", document, patience=HASTE))
    bob.expect_binary(b"early")
    web.exchange(alice, bob, 2000)


def make_a_tunnel(relay, hold):
    how = {"lively": False, "padding": no_padding, "patience": HASTE}
    node, other = Identity(), Identity()
    listener = hold(relay.open(node, **how)).listen()
    # Nothing tells when the relay has taken the listener: a client that is too early is closed.
    for _ in range(10):
        connector = hold(relay.open(other, **how)).connect_to(node.key)
        try:
            connector.patience = 0.1
            connector.receive()
        except OffsetClosed:
            continue
        except TimeoutError:
            break
    connector.patience = HASTE
    assert listener.incoming() == other.key
    acceptor = hold(relay.open(node, **how)).accept(other.key)
    exchange_through_tunnel(connector, acceptor)


ALL = (meet_by_transit, meet_by_p2p_copy, be_introduced, be_connected, make_a_tunnel)


class Load:
    """Clients that meet, over and over, whatever happens to them: a thread for each of `meetings`."""

    def __init__(self, relay, meetings):
        self.relay = relay
        self.ended = False
        self.made = [0] * len(meetings)
        self.threads = [threading.Thread(target=self._run, args=(i, meeting))
                        for i, meeting in enumerate(meetings)]
        for thread in self.threads:
            thread.start()

    def _one(self, meet):
        held = []

        def hold(client):
            held.append(client)
            return client

        try:
            meet(self.relay, hold)
            return True
        except (OSError, AssertionError, Closed, OffsetClosed):
            return False
        finally:
            for client in held:
                client.close()

    def _run(self, index, meet):
        while not self.ended:
            self.made[index] += self._one(meet)

    def stop(self):
        self.ended = True
        for thread in self.threads:
            thread.join()


def kill(pid, what=signal.SIGKILL):
    try:
        os.kill(pid, what)
        return True
    except ProcessLookupError:
        return False


def lasting_pairs_still_talk(pairs):
    for pair in pairs:
        exchange(*pair)


def comes_back_clean(relay, lasting):
    """Only what lasts is in the table and in the forwarder, and new pairs can be made."""
    relay.wait_for(patience=30, used=2 * lasting, joined=2 * lasting)
    status = relay.status()
    assert status["unclaimed"] == 0, status
    for _ in range(20):
        first, second = make_pair(relay)
        exchange(first, second)
        first.close()
        second.close()
    relay.wait_for(used=2 * lasting)


def all_can_meet(relay):
    def hold(client):
        held.append(client)
        return client

    for meet in ALL:
        held = []
        meet(relay, hold)
        for client in held:
            client.close()


@behaviour("transit", "all protocols")
def workers_killed_at_random_leave_no_slot_and_end_no_pair(what):
    meetings = ALL if what == "all protocols" else [meet_by_transit] * 4
    with OffsetRelay() as relay:
        pairs = [make_pair(relay) for _ in range(5)]
        forwarder = relay.forwarder()
        load = Load(relay, meetings)
        kills = 0
        until = time.monotonic() + 240
        try:
            while kills < WORKER_KILLS and time.monotonic() < until:
                workers = relay.workers()
                if workers and kill(random.choice(workers)):
                    kills += 1
                time.sleep(random.random() * 0.01)
                if kills % 100 == 0:
                    lasting_pairs_still_talk(pairs)
        finally:
            load.stop()
        print(f"#   {kills} workers killed, {load.made} met meanwhile, "
              f"{relay.status()['repairs']} locks repaired")
        assert kills >= WORKER_KILLS / 2, kills
        assert all(load.made), load.made
        lasting_pairs_still_talk(pairs)
        assert relay.forwarder() == forwarder, "the forwarder was not to be touched"
        comes_back_clean(relay, len(pairs))
        all_can_meet(relay)
        wait_until(lambda: len(descriptors(forwarder)) < 200, "descriptors to be closed")


@behaviour("transit", "all protocols")
def forwarders_killed_at_random_leave_no_slot(what):
    meetings = ALL if what == "all protocols" else [meet_by_transit] * 4
    pause = 1.5 if what == "all protocols" else 0.3  # a tunnel takes longer to make
    with OffsetRelay() as relay:
        load = Load(relay, meetings)
        kills = 0
        try:
            for _ in range(FORWARDER_KILLS):
                forwarder = wait_until(relay.forwarder, "a forwarder")
                time.sleep(random.random() * pause)
                kills += kill(forwarder)
                wait_until(lambda pid=forwarder: not alive(pid), "it to be dead")
        finally:
            load.stop()
        print(f"#   {kills} forwarders killed, {load.made} met meanwhile")
        assert all(load.made), load.made
        comes_back_clean(relay, 0)
        all_can_meet(relay)


@behaviour()
def a_killed_forwarder_closes_its_pairs_and_the_next_one_takes_over():
    with Relay() as relay:
        pair = make_pair(relay)
        waiting = relay.connect().send(line(new_token()))
        relay.wait_for(waiting=1)
        old = relay.forwarder()
        kill(old)
        for client in (*pair, waiting):
            client.expect_end()
        pair = make_pair(relay)
        exchange(*pair)
        assert relay.forwarder() != old
        relay.wait_for(joined=2, used=2)


@behaviour()
def a_forwarder_on_demand_that_is_killed_is_replaced_by_the_next_worker():
    with Relay("accept") as relay:
        pair = make_pair(relay)
        kill(relay.forwarder())
        pair[0].expect_end()
        exchange(*make_pair(relay))


@behaviour()
def a_server_that_is_killed_takes_its_workers_with_it_and_no_pair():
    relay = Relay()
    try:
        pair = make_pair(relay)
        workers, forwarder = relay.workers(), relay.forwarder()
        relay.process.kill()
        relay.process.wait()
        for pid in workers:
            wait_until(lambda pid=pid: not alive(pid), "a worker to end")
        exchange(*pair)
        for client in pair:
            client.close()
        wait_until(lambda: not alive(forwarder), "the forwarder to retire")
    finally:
        relay.stop()


@behaviour()
def stalled_workers_hold_no_other_client_up():
    with Relay() as relay:
        stalled = []
        try:
            silent = relay.connect()
            relay.wait_for(greeting=1)
            for pid in relay.workers():
                kill(pid, signal.SIGSTOP)
                stalled.append(pid)
            for _ in range(10):
                exchange(*make_pair(relay))
            silent.close()
        finally:
            for pid in stalled:
                kill(pid, signal.SIGCONT)
        exchange(*make_pair(relay))


@behaviour()
def workers_stalled_at_random_hold_no_other_client_up():
    with Relay() as relay:
        load = Load(relay, [meet_by_transit] * 3)
        stalled = []
        try:
            for _ in range(150):
                workers = [pid for pid in relay.workers() if pid not in stalled]
                if workers:
                    pid = random.choice(workers)
                    kill(pid, signal.SIGSTOP)
                    stalled.append(pid)
                if len(stalled) > 20:
                    kill(stalled.pop(0), signal.SIGCONT)
                time.sleep(random.random() * 0.02)
            made = sum(load.made)
            wait_until(lambda: sum(load.made) >= made + 20, "more pairs while workers stall", 30)
        finally:
            load.stop()
            for pid in stalled:
                kill(pid, signal.SIGCONT)
        print(f"#   {load.made} met meanwhile")
        comes_back_clean(relay, 0)


if __name__ == "__main__":
    run()
