"""Any process may die, or stall, at any moment: the table comes back clean, every pair that the
dead one did not hold carries on, and a new pair can always be made."""

import os
import random
import signal
import threading
import time

from harness import (Relay, alive, behaviour, descriptors, exchange, line, make_pair, new_side,
                     new_token, run, wait_until)

WORKER_KILLS = int(os.environ.get("WORKER_KILLS", "3000"))
FORWARDER_KILLS = int(os.environ.get("FORWARDER_KILLS", "40"))


class Load:
    """Clients that make pairs, over and over, whatever happens to them."""

    def __init__(self, relay, count):
        self.relay = relay
        self.ended = False
        self.made = [0] * count
        self.threads = [threading.Thread(target=self._run, args=(i,)) for i in range(count)]
        for thread in self.threads:
            thread.start()

    def _one(self):
        token = new_token()
        first = second = None
        try:
            first, second = self.relay.connect(3), self.relay.connect(3)
            first.send(line(token, new_side()))
            second.send(line(token, new_side()))
            first.expect(b"ok\n")
            second.expect(b"ok\n")
            exchange(first, second, 2000)
            return True
        except (OSError, AssertionError):
            return False
        finally:
            for client in (first, second):
                if client is not None:
                    client.close()

    def _run(self, index):
        while not self.ended:
            self.made[index] += self._one()

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


@behaviour()
def workers_killed_at_random_leave_nothing_and_touch_no_pair():
    with Relay() as relay:
        pairs = [make_pair(relay) for _ in range(5)]
        forwarder = relay.forwarder()
        load = Load(relay, 4)
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
        print(f"#   {kills} workers killed, {sum(load.made)} pairs made meanwhile, "
              f"{relay.status()['repairs']} locks repaired")
        assert kills >= WORKER_KILLS / 2, kills
        assert all(load.made), load.made
        lasting_pairs_still_talk(pairs)
        assert relay.forwarder() == forwarder, "the forwarder was not to be touched"
        comes_back_clean(relay, len(pairs))
        wait_until(lambda: len(descriptors(forwarder)) < 200, "descriptors to be closed")


@behaviour()
def forwarders_killed_at_random_leave_nothing():
    with Relay() as relay:
        load = Load(relay, 4)
        kills = 0
        try:
            for _ in range(FORWARDER_KILLS):
                forwarder = wait_until(relay.forwarder, "a forwarder")
                time.sleep(random.random() * 0.3)
                kills += kill(forwarder)
                wait_until(lambda pid=forwarder: not alive(pid), "it to be dead")
        finally:
            load.stop()
        print(f"#   {kills} forwarders killed, {sum(load.made)} pairs made meanwhile")
        assert all(load.made), load.made
        comes_back_clean(relay, 0)


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
def stalled_workers_hold_nobody_up():
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
def workers_stalled_at_random_hold_nobody_up():
    with Relay() as relay:
        load = Load(relay, 3)
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
        print(f"#   {sum(load.made)} pairs made meanwhile")
        comes_back_clean(relay, 0)


if __name__ == "__main__":
    run()
