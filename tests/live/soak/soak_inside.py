"""The soak, from the inside: run by soak_test.py as a process of a system of its own.

relay is installed by README's own lines. Then pairs of every protocol, and clients who wait, live
through all of it, while newcomers come, meet, and go: for one half at the unit that README names,
and for the other at the other one, to which the system is switched in between. Nothing may be
restarted, nothing may be lost, and at the end nothing may have grown.

    soak_inside.py SECONDS"""

import base64
import functools
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir))

# pylint: disable=wrong-import-position
import harness
import offset_relay
import web_protocols
from harness import TOP, behaviour, line, make_pair, new_side, new_token, wait_until
from offset_client import Identity
from offset_relay import OffsetRelay, Task
from systemd_units import (KINDS, command, no_address_is_logged_since, nothing_has_failed,
                           property_of, units)
from websocket_client import BINARY

SECONDS = float(sys.argv[1])
ROUND = 5.0           # seconds from one round of newcomers to the next
TALK = 3              # rounds from one word of a pair to its next
WARM_UP = 0.2         # of a half, before what is used is compared
GROWTH = 1 << 20      # bytes of memory that are no growth


class Soaked(OffsetRelay):  # pylint: disable=super-init-not-called
    """The relay that systemd runs."""

    def __init__(self):
        self.how, self.port, self.runtime, self.process = "systemd", 4001, "/run/relay", None

    @functools.cached_property
    def identity(self):
        """What its first worker has made."""
        with open("/var/lib/relay/relay.ident", encoding="ascii") as file:
            seed = re.search(r'"privateKey": "(.*)"', file.read())[1]
        return Identity(base64.urlsafe_b64decode(seed + "="))

    def log(self):
        return command("journalctl", "--no-pager", "-o", "cat", "-n", "30", check=False)

    def stop(self):
        pass


# ---- clients that are there all the time --------------------------------------------------------


class Introductions:
    """Two peers of @localfirst/relay that find a document in common, over and over."""

    def __init__(self, relay, **how):
        self.names = [os.urandom(8).hex() for _ in range(2)]
        self.peers = [web_protocols.introduced(relay, name, **how) for name in self.names]

    def talk(self):
        document = os.urandom(8).hex()
        for peer in self.peers:
            web_protocols.join(peer, document)
        for peer, other in zip(self.peers, reversed(self.names)):
            web_protocols.expect_introduction(peer, other, document)
        for peer in self.peers:
            web_protocols.leave(peer, document)

    def close(self):
        for peer in self.peers:
            peer.close()


class Pair:
    """Two clients that have met, with a way to talk."""

    def __init__(self, ends, exchange):
        self.ends, self.exchange = ends, exchange

    def talk(self):
        self.exchange(*self.ends)

    def close(self):
        for end in self.ends:
            end.close()


PROTOCOLS = {
    "transit": lambda relay, **how: Pair(make_pair(relay, **how), harness.exchange),
    "transit over WebSocket":
        lambda relay, **how: Pair(web_protocols.transit_pair(relay, **how), web_protocols.exchange),
    "p2p-copy":
        lambda relay, **how: Pair(web_protocols.p2p_pair(relay, **how), web_protocols.exchange),
    "localfirst":
        lambda relay, **how: Pair(web_protocols.connection_pair(relay, **how), web_protocols.exchange),
    "introductions": Introductions,
    "offset": lambda relay, **how: Pair(relay.tunnel(**how), offset_relay.exchange),
}


class Waiting:
    """Clients of every protocol that wait for the whole time, and are met at the end."""

    def __init__(self, relay, patience):
        self.relay = relay
        self.token, self.code, self.document = new_token(), web_protocols.new_code(), new_side().decode()
        self.transit = relay.connect(patience).send(line(self.token, new_side()))
        self.silent = make_pair(relay, patience=patience)
        self.sender = web_protocols.sender(relay, self.code, patience=patience)
        self.peer = web_protocols.connection(relay, "alice", "bob", self.document, patience=patience)
        self.introduced = web_protocols.introduced(relay, "patient", self.document, patience=patience)
        self.listener = relay.listener(patience=patience)
        # Clients that are pinged have to answer, so they read all the time.
        self.answers = [Task(function) for function in
                        (self.sender.receive_message, self.peer.receive_message,
                         self.introduced.receive_message, self.listener.incoming)]

    def meet(self):
        harness.exchange(*self.silent)
        late = self.relay.connect().send(line(self.token, new_side())).expect(b"ok\n")
        self.transit.expect(b"ok\n")
        harness.exchange(self.transit, late)
        receiver = web_protocols.receiver(self.relay, self.code)
        bob = web_protocols.connection(self.relay, "bob", "alice", self.document)
        bob.send_binary(b"at last")
        introduced = web_protocols.introduced(self.relay, "late", self.document)
        connector = self.relay.open().connect_to(self.listener.identity.key)
        ready, word, introduction, key = [answer.result(harness.PATIENCE) for answer in self.answers]
        assert b"ready" in ready[1], ready
        assert word == (BINARY, b"at last"), word
        assert b"late" in introduction[1], introduction
        assert key == connector.identity.key, "another is announced"
        for client in (*self.silent, self.transit, self.sender, self.peer, self.introduced,
                       self.listener, late, receiver, bob, introduced, connector):
            client.close()


# ---- what is used -----------------------------------------------------------------------


def resident(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return int(re.search(r"RssAnon:\s+(\d+) kB", file.read())[1]) << 10


def fewest_descriptors(pid):
    """At rest: now and then a server asks its forwarder whether it lives, which takes a descriptor."""
    counts = []
    for _ in range(10):
        counts.append(len(harness.descriptors(pid)))
        time.sleep(0.3)
    return min(counts)


class Figures:
    """What the forwarder, the server if there is one, and the table use."""

    def __init__(self, relay):
        self.forwarder = relay.forwarder()
        self.memory = resident(self.forwarder)
        self.descriptors = len(harness.descriptors(self.forwarder))
        status = relay.status()
        self.slots, self.keys = status["used"], status["tokens"]
        server = int(property_of("relay-prefork.service", "MainPID") or 0)
        self.server_memory = resident(server) if server else 0
        self.server_descriptors = fewest_descriptors(server) if server else 0
        self.bytes = status["total_bytes"] + status["incomplete_bytes"]

    def __str__(self):
        return (f"forwarder {self.memory >> 10} KiB, {self.descriptors} descriptors; "
                f"server {self.server_memory >> 10} KiB, {self.server_descriptors} descriptors; "
                f"{self.slots} slots, {self.keys} keys; {self.bytes} bytes forwarded")

    def expect_flat(self, before):
        assert self.forwarder == before.forwarder, "it is another forwarder"
        for name in ("descriptors", "slots", "keys", "server_descriptors"):
            then, now = getattr(before, name), getattr(self, name)
            assert now == then, f"{name}: {then} before, {now} at the end"
        for name in ("memory", "server_memory"):
            then, now = getattr(before, name), getattr(self, name)
            assert now <= then + GROWTH, f"{name}: {then} bytes before, {now} at the end"


def expect_active(unit):
    """Every unit is, none was started anew, and nothing was warned of."""
    services = ["relay-forward.service"]
    if unit == "relay-prefork.socket":
        services.append("relay-prefork.service")
    for each in (unit, "relay-forward.socket", *services):
        state = property_of(each, "ActiveState")
        assert state == "active", f"{each} is {state}"
    for service in services:
        count = property_of(service, "NRestarts")
        assert count == "0", f"{service} was restarted {count} times"
    nothing_has_failed()


# ---- the soak -------------------------------------------------------------------------


class Soak:
    """All of it; its parts are told as behaviours, in order."""

    relay = None
    pairs = {}
    waiting = None
    unit = None
    forwarder = 0
    started = 0.0
    slots = 0

    def settle(self):
        """Waits until the newcomers are gone."""
        self.relay.wait_for(used=self.slots)
        wait_until(lambda: not units("relay@*"), "the workers to be gone")

    def one_round(self, number):
        newcomers = [make(self.relay) for make in PROTOCOLS.values()]
        for newcomer in newcomers:
            newcomer.talk()
        with self.relay.connect() as lonely, self.relay.connect() as wrong:
            lonely.send(line(new_token()))
            wrong.send(b"nonsense\n").expect(b"bad handshake\n")
        for newcomer in newcomers:
            newcomer.close()
        if number % TALK == 0:
            for pair in self.pairs.values():
                pair.talk()

    def live(self, seconds):
        """Rounds of newcomers for so long. Returns what was used early, and at the end."""
        start, early, number = time.monotonic(), None, 0
        while (now := time.monotonic()) < start + seconds:
            self.one_round(number)
            number += 1
            if early is None and now >= start + seconds * WARM_UP:
                self.settle()
                early = Figures(self.relay)
            expect_active(self.unit)
            time.sleep(max(0.0, now + ROUND - time.monotonic()))
        self.settle()
        return early, Figures(self.relay), number

    def half(self):
        early, late, rounds = self.live(SECONDS / 2)
        print(f"#   {rounds} rounds of {len(PROTOCOLS)} new pairs at {self.unit}")
        print(f"#   early: {early}\n#   at the end: {late}", flush=True)
        late.expect_flat(early)
        assert late.forwarder == self.forwarder, "it is another forwarder"
        expect_active(self.unit)


soak = Soak()


@behaviour()
def the_lines_of_README_install_it_and_enable_it():
    with open(os.path.join(TOP, "README.md"), encoding="utf-8") as file:
        section = file.read().split("\n## Install")[1].split("\n## ")[0]
    lines = re.search(r"(?:^ {4}.*\n)+", section, re.MULTILINE)[0]
    soak.unit = re.search(r"systemctl enable --now (\S+)", lines)[1]
    script = 'sudo() { "$@"; }\nset -e\ncd /srv/relay\n' + lines
    done = subprocess.run(["sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)
    assert done.returncode == 0, done.stdout.decode()
    assert property_of(soak.unit, "ActiveState") == "active"


@behaviour()
def pairs_of_every_protocol_meet():
    soak.started = time.time()
    soak.relay = Soaked()
    patience = SECONDS + 60
    soak.pairs = {name: make(soak.relay, patience=patience) for name, make in PROTOCOLS.items()}
    for pair in soak.pairs.values():
        pair.talk()
    soak.waiting = Waiting(soak.relay, patience)
    soak.forwarder = wait_until(soak.relay.forwarder, "the forwarder")
    soak.relay.wait_for(greeting=0, matched=0)
    wait_until(lambda: not units("relay@*"), "the workers to be gone")
    soak.slots = soak.relay.status()["used"]
    expect_active(soak.unit)


@behaviour()
def nothing_grows_or_fails_while_newcomers_come_and_go():
    soak.half()


@behaviour()
def the_other_socket_takes_the_place_of_the_first_and_all_pairs_live_on():
    old, soak.unit = soak.unit, KINDS[soak.unit]
    command("systemctl", "disable", "--now", old)
    command("systemctl", "enable", "--now", soak.unit)
    soak.half()
    assert property_of(old, "ActiveState") == "inactive"


@behaviour()
def clients_that_have_waited_all_the_time_are_met():
    for pair in soak.pairs.values():
        pair.talk()
    soak.waiting.meet()


@behaviour()
def no_slot_is_used_when_all_clients_have_gone():
    for pair in soak.pairs.values():
        pair.close()
    soak.relay.wait_for(used=0)
    assert soak.relay.forwarder() == soak.forwarder, "it is another forwarder"


@behaviour()
def the_journal_has_no_warning_and_no_address():
    no_address_is_logged_since(soak.started)
    warnings = command("journalctl", "--no-pager", "--priority=warning", "--unit=relay*",
                       f"--since=@{soak.started:.6f}", "--quiet")
    assert warnings.strip() == "", warnings


if __name__ == "__main__":
    sys.argv = sys.argv[:1]
    harness.run()
