"""What takes time with Offset: keepalives, silence, half tunnels that are not accepted, a reader
that stalls, the hourly rekey. All of it happens at once, and each statement waits for its own."""

import atexit
import functools
import glob
import os
import time

from harness import Skip, behaviour, run, wait_until
from offset_client import Closed, Connection, Identity, KEEPALIVE, no_padding
from offset_relay import OffsetRelay, Task, exchange, receive_many, send_all

IDLE = 32        # seconds without a sign of life, after which a connection is closed
HALF_TUNNEL = 32  # seconds that a connector waits for an accept
TICK = 1         # of the clock that the relay may count by
LONG = 75        # longer than four keepalives, and than two silences
PATIENCE = 100   # for what should come sooner

cases, tasks = [], {}


def meanwhile(case):
    """Marks a test that runs beside all others of its kind."""
    cases.append(case)

    @functools.wraps(case)
    def statement():
        if not tasks:
            relay = OffsetRelay()
            atexit.register(relay.stop)
            tasks.update((each, Task(each, relay)) for each in cases)
        tasks[case].result()

    return behaviour()(statement)


def expect_closed_after(node, seconds):
    """Not before it is time. When exactly depends on this machine as well."""
    started = time.monotonic()
    node.expect_closed()
    lasted = time.monotonic() - started
    assert lasted > seconds - 2 * TICK, f"closed after {lasted:.0f} seconds already"


def patient(**options):
    return {"patience": PATIENCE, "padding": no_padding, **options}


def listen_for(node, seconds):
    """Takes what comes for so long; there must be no message in it."""
    node.patience = seconds
    try:
        message = node.receive()
    except TimeoutError:
        return node.keepalives
    finally:
        node.patience = PATIENCE
    raise AssertionError(f"got a message of {len(message)} bytes")


# ---- keepalives ------------------------------------------------------------------------


@meanwhile
def an_idle_listener_gets_keepalives_and_stays(relay):
    listener = relay.listener(**patient())
    assert listen_for(listener, LONG) >= LONG // KEEPALIVE - 1
    exchange(*relay.tunnel(listener))


@meanwhile
def both_ends_of_an_idle_tunnel_get_keepalives_and_stay(relay):
    ends = relay.tunnel(**patient())
    listening = [Task(listen_for, end, LONG) for end in ends]
    for task in listening:
        assert task.result() >= LONG // KEEPALIVE - 1
    exchange(*ends)


@meanwhile
def an_end_that_is_spoken_to_gets_no_keepalives(relay):
    connector, acceptor = relay.tunnel(**patient())
    receiving = Task(receive_many, acceptor, 60)
    for _ in range(60):
        connector.send(b"tick")
        time.sleep(1)
    receiving.result()
    assert acceptor.keepalives == 0, "a message does as well"


@meanwhile
def a_half_tunnel_gets_keepalives(relay):
    listener = relay.listener(**patient())
    connector = relay.connector(listener, **patient())
    assert listen_for(connector, KEEPALIVE + 6) >= 1
    exchange(connector, relay.acceptor(listener, connector))


# ---- silence ---------------------------------------------------------------------------


@meanwhile
def a_silent_listener_is_closed(relay):
    expect_closed_after(relay.listener(**patient(lively=False)), IDLE)


@meanwhile
def a_silent_end_of_a_tunnel_is_closed_and_the_other_with_it(relay):
    listener = relay.listener(**patient())
    connector = relay.connector(listener, **patient(lively=False))
    acceptor = relay.acceptor(listener, connector, **patient())
    acceptor.send(b"talking to a silent one is no sign of its life")
    connector.receive()
    other = Task(acceptor.expect_closed)
    expect_closed_after(connector, IDLE)
    other.result()


@meanwhile
def new_keys_are_no_sign_of_life(relay):
    listener = relay.listener(**patient(lively=False))
    closing = Task(expect_closed_after, listener, IDLE)
    try:
        while closing.is_alive():
            wait_until(lambda: listener.channel.pending is None or not closing.is_alive(),
                       "the rekey to complete")
            listener.begin_rekey()
            time.sleep(4)
    except Closed:
        pass
    closing.result()
    assert listener.channel.rekeys > 5


@meanwhile
def part_of_a_frame_is_no_sign_of_life(relay):
    listener = relay.listener(**patient(lively=False))
    closing = Task(expect_closed_after, listener, IDLE)
    listener.socket.sendall(b"\0\0\0\0\0\0\1\0")
    try:
        while closing.is_alive():
            listener.socket.sendall(b"x")
            time.sleep(1)
    except OSError:
        pass
    closing.result()


@meanwhile
def a_key_whose_link_broke_silently_listens_again_at_the_latest_when_that_is_noticed(relay):
    broken = relay.listener(**patient(lively=False))
    started = time.monotonic()

    def listens():
        time.sleep(1)
        return relay.try_to_listen(broken.identity, **patient())

    listener = wait_until(listens, "the key to listen again", PATIENCE)
    assert time.monotonic() - started > IDLE - 2 * TICK, "the first was not closed by then"
    exchange(*relay.tunnel(listener))


# ---- half tunnels ----------------------------------------------------------------------


@meanwhile
def a_half_tunnel_that_is_not_accepted_is_closed_and_its_key_may_connect_again(relay):
    listener = relay.listener(**patient())
    node = Identity()
    connector = relay.connector(listener, node, **patient())
    expect_closed_after(connector, HALF_TUNNEL)
    with relay.open(listener.identity) as acceptor:
        acceptor.accept(node.key).expect_closed()
    again = relay.connector(listener, node)
    exchange(again, relay.acceptor(listener, again))


@meanwhile
def a_half_tunnel_that_speaks_is_closed_all_the_same(relay):
    listener = relay.listener(**patient())
    connector = relay.connector(listener, **patient())
    speaking = Task(speak, connector)
    expect_closed_after(connector, HALF_TUNNEL)
    speaking.result()


def speak(node):
    try:
        while True:
            node.send(b"still here")
            time.sleep(1)
    except (Closed, OSError):
        pass


# ---- stalling --------------------------------------------------------------------------


@meanwhile
def a_reader_that_stalls_longer_than_any_silence_loses_nothing(relay):
    connector, acceptor = relay.tunnel(**patient())
    sending = Task(send_all, connector, [1 << 20] * 40)
    listening = Task(listen_for, connector, IDLE + 15)  # the relay does not read it meanwhile
    time.sleep(IDLE + 10)
    assert sending.is_alive(), "all of it was taken: nothing stalls"
    received = receive_many(acceptor, 40)
    assert received == sending.result()
    assert listening.result() >= 1, "no keepalives to whoever waits"
    exchange(connector, acceptor)


# ---- the relay's own new keys ----------------------------------------------------------

SPEED = 40  # of the relay's clock, so that its hour comes soon


class Talker(Connection):
    """Says numbers, and knows which it has to hear next."""

    said = heard = 0

    def say(self):
        with self.sealing:
            self.said += 1
            self.send(b"%d" % self.said)

    def hear(self):
        self.heard += 1
        assert self.receive() == b"%d" % self.heard


class Crosser(Talker):
    """When the relay begins a rekey it has just begun one as well, and it goes on for a while
    before it takes notice of the relay's."""

    crossed = 0

    def complete_rekey(self, rekey):
        if self.channel.pending is None:
            self.crossed += 1
            with self.sealing:
                self.begin_rekey()
                for _ in range(5):
                    self.say()
        super().complete_rekey(rekey)


def talk(first, second):
    for sender, receiver in ((first, second), (second, first)):
        sender.say()
        while receiver.heard < sender.said:
            receiver.hear()


@meanwhile
def the_relay_begins_new_keys_within_its_hour_and_they_may_cross_with_the_nodes_own(_):
    libraries = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
    if not libraries:
        raise Skip("libfaketime is not installed")
    if "ASAN_OPTIONS" in os.environ:
        raise Skip("AddressSanitizer does not go with libfaketime")
    clock = {"LD_PRELOAD": libraries[0], "FAKETIME": f"+0 x{SPEED}"}
    with OffsetRelay(environment=clock, options=["--handshake-timeout=600"]) as relay:
        listener = relay.listener(keepalive=KEEPALIVE / SPEED / 2)
        connector = relay.connector(listener, kind=Talker)
        acceptor = relay.acceptor(listener, connector, kind=Crosser)
        until = time.monotonic() + 2 * 3600 / SPEED
        while not (connector.channel.rekeys and acceptor.channel.rekeys):
            assert time.monotonic() < until, "the relay begins none"
            talk(connector, acceptor)
            time.sleep(0.05)
        for _ in range(20):
            talk(connector, acceptor)
        assert acceptor.crossed == acceptor.channel.rekeys == connector.channel.rekeys == 1


if __name__ == "__main__":
    run()
