"""Whatever is done to an Offset connection on its way, and whatever nonsense a client sends, ends that
connection, with one log line, and nothing else."""

import json
import os
import socket
import struct
import sys
import time

import offset_capnp as capnp
from harness import PATIENCE, TOP, behaviour, run
from offset_client import Closed, Exchange, FRAME_MAX, Identity, Refused, framed, no_padding
from offset_relay import OffsetRelay, exchange, receive_all

# What a node sends, by its number.
VERSION_FRAME, NONCES, KEYS, FIRST, LATER = range(5)
STAGES = {"the nonces": NONCES, "the keys": KEYS, "the first message": FIRST,
          "a later message": LATER}
IN_THE_CLEAR = {"the version": VERSION_FRAME, "the nonces": NONCES, "the keys": KEYS}
ENCRYPTED = ("the first message", "a later message")


class Bystanders:
    """A listener and a tunnel that must not notice anything."""

    def __init__(self, relay):
        self.relay = relay
        self.listener = relay.listener()
        self.ends = relay.tunnel(self.listener)
        self.lines = len(relay.log_lines())

    def expect_undisturbed(self, refused):
        """refused: how many connections were since, each of which leaves one line in the log."""
        exchange(*self.ends)
        exchange(*self.relay.tunnel(self.listener))
        self.relay.expect_log_lines(self.lines, refused)


def node_with(relay, outgoing):
    return relay.open(handshake=False, outgoing=outgoing, padding=no_padding, lively=False)


def go_on(node):
    """From a connection on to some keepalives behind Listen."""
    node.greet()
    node.shake_hands()
    node.listen()
    for _ in range(3):
        node.send_keepalive()


def expect_refused(relay, outgoing):
    """A node whose frames are changed on their way is closed by the relay."""
    with node_with(relay, outgoing) as node:
        try:
            go_on(node)
            node.expect_closed()
        except Closed:
            pass


def changing(number, change):
    """Changes one frame, by its number."""
    return lambda at, data: change(data) if at == number else data


def size_of(relay, number):
    """The payload of such a frame."""
    sizes = []
    with node_with(relay, lambda _, data: sizes.append(len(data) - 8) or data) as node:
        go_on(node)
    return sizes[number]


# ---- bits ------------------------------------------------------------------------------


def with_a_bit_flipped(data, at, bit):
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    return bytes(changed)


def flipped(data, bit):
    """In the payload of a frame, whose size differs by a few bytes from one to the next."""
    return with_a_bit_flipped(data, 8 + bit // 8 % (len(data) - 8), bit % 8)


def meaning(number, data):
    """What a frame of the handshake says, or None if it cannot be read."""
    try:
        if number == KEYS:
            return capnp.read_exchange_dh(data[8:])
        return capnp.read_exchange_rand_nonce(data[8:])
    except capnp.Invalid:
        return None


class Flip:
    """One bit of a frame in the clear, flipped on its way. It counts if the relay can know: the
    destination is not signed, the nonce is for its sender to judge, and some bits change nothing,
    as those that make a struct larger."""

    def __init__(self, number, bit):
        self.number, self.bit = number, bit
        self.counts = True

    def __call__(self, at, data):
        if at != self.number:
            return data
        changed = flipped(data, self.bit)
        if at == VERSION_FRAME:
            return changed
        before, after = meaning(at, data), meaning(at, changed)
        if after is not None:
            self.counts = after != before if at == KEYS else after[1] != before[1]
        return changed if self.counts else data


@behaviour(*IN_THE_CLEAR)
def any_flipped_bit_in_the_handshake_ends_the_connection(stage):
    number = IN_THE_CLEAR[stage]
    with OffsetRelay(options=["--debug"]) as relay:
        bystanders, refused = Bystanders(relay), 0
        for bit in range(8 * size_of(relay, number)):
            flip = Flip(number, bit)
            with node_with(relay, flip) as node:
                try:
                    go_on(node)
                    if flip.counts:
                        node.expect_closed()
                except Closed:
                    assert flip.counts, f"bit {bit}, which was left as it is"
            refused += flip.counts
        assert refused >= (32 if number == VERSION_FRAME else 400), refused
        bystanders.expect_undisturbed(refused)


@behaviour()
def a_changed_nonce_is_found_by_its_sender():
    with OffsetRelay(options=["--debug"]) as relay:
        nonce = os.urandom(16)
        for at in range(16):
            with node_with(relay, None) as node:
                node.greet()
                node.channel.nonce = bytes(byte ^ (i == at) for i, byte in enumerate(nonce))
                try:
                    node.shake_hands()
                except Refused:
                    continue
            raise AssertionError("the relay does not answer to what it was told")


@behaviour(*ENCRYPTED)
def any_flipped_bit_in_a_frame_ends_the_connection(stage):
    number = STAGES[stage]
    with OffsetRelay(options=["--debug"]) as relay:
        bystanders, bits = Bystanders(relay), 8 * size_of(relay, number)
        for bit in range(bits):
            expect_refused(relay, changing(
                number, lambda data: flipped(data, bit)))  # pylint: disable=cell-var-from-loop
        bystanders.expect_undisturbed(bits)


# ---- frames ----------------------------------------------------------------------------


def dropped(number):
    return changing(number, lambda data: b"")


def replayed(number):
    return changing(number, lambda data: data + data)


def swapped_with_the_next(number):
    kept = []

    def swap(at, data):
        if at == number:
            kept.append(data)
            return b""
        return data + kept.pop() if kept else data

    return swap


def without_its_last_byte(number):
    return changing(number, lambda data: data[:-1])


def preceded_by_one_of_another_connection(number):
    return changing(number, lambda data: framed(os.urandom(len(data) - 8)) + data)


WAYS_TO_TAMPER = (dropped, replayed, swapped_with_the_next, without_its_last_byte,
                  preceded_by_one_of_another_connection)
WAYS_TO_LOSE = (dropped, swapped_with_the_next)
HUGE = (FRAME_MAX + 1, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1)


@behaviour(*STAGES)
def a_frame_dropped_replayed_reordered_cut_or_added_ends_the_connection(stage):
    number, ways = STAGES[stage], WAYS_TO_TAMPER
    if number == NONCES:
        ways = [way for way in ways if way not in WAYS_TO_LOSE]
    # Some of these leave the relay waiting for more.
    with OffsetRelay(options=["--debug", "--handshake-timeout=2"]) as relay:
        bystanders = Bystanders(relay)
        for way in ways:
            expect_refused(relay, way(number))
        bystanders.expect_undisturbed(len(ways))


@behaviour(*(way.__name__.replace("_", " ") for way in WAYS_TO_LOSE))
def nonces_that_do_not_arrive_end_the_connection(name):
    """The relay takes what comes next for them, which the node finds out; it waits for keys then,
    and nonces in their place it refuses."""
    way = getattr(sys.modules[__name__], name.replace(" ", "_"))
    with OffsetRelay(options=["--debug", "--handshake-timeout=2"]) as relay:
        bystanders = Bystanders(relay)
        with node_with(relay, way(NONCES)) as node:
            try:
                go_on(node)
                raise AssertionError("the node takes keys that are not for its nonce")
            except (Closed, Refused):
                pass
            expect_end(node)
        bystanders.expect_undisturbed(0 if way is dropped else 1)


@behaviour(*(way.__name__.replace("_", " ") for way in WAYS_TO_TAMPER if way not in WAYS_TO_LOSE))
def a_version_replayed_cut_or_preceded_ends_the_connection(name):
    way = getattr(sys.modules[__name__], name.replace(" ", "_"))
    with OffsetRelay(options=["--debug"]) as relay:
        bystanders = Bystanders(relay)
        expect_refused(relay, way(VERSION_FRAME))
        bystanders.expect_undisturbed(1)


def bit_of_its_head(bit):
    return changing(VERSION_FRAME, lambda data: with_a_bit_flipped(data, bit // 8, bit % 8))


def cut_to(size):
    return changing(VERSION_FRAME, lambda data: framed(data[8:8 + size]))


def said_to_be_huge(claim):
    return changing(VERSION_FRAME, lambda data: struct.pack(">Q", claim))


NOT_OFFSET = {
    "any bit of its head flipped": [bit_of_its_head(bit) for bit in range(64)],
    "dropped": [dropped(VERSION_FRAME)],
    "swapped with the next": [swapped_with_the_next(VERSION_FRAME)],
    "shorter": [cut_to(size) for size in range(4)],
    "said to be huge": [said_to_be_huge(claim) for claim in HUGE],
}


@behaviour(*NOT_OFFSET)
def a_connection_whose_first_bytes_are_no_version_is_not_offsets(how):
    """It is taken for a client of transit, and refused as one when its line comes to an end."""
    with OffsetRelay(options=["--debug"]) as relay:
        bystanders = Bystanders(relay)
        for outgoing in NOT_OFFSET[how]:
            with node_with(relay, outgoing) as node:
                node.greet()
                node.socket.sendall(b"\n" * 1024)
                answer = b""
                while part := node.socket.recv(100):
                    answer += part
                assert answer == b"bad handshake\n", answer
        bystanders.expect_undisturbed(len(NOT_OFFSET[how]))
        assert relay.outcomes("offset")["errory"] == 0, relay.outcomes("offset")


@behaviour(*STAGES)
def a_shorter_frame_of_any_length_ends_the_connection(stage):
    number = STAGES[stage]
    with OffsetRelay(options=["--debug"]) as relay:
        bystanders, size = Bystanders(relay), size_of(relay, number)
        for shorter in range(size):
            expect_refused(relay, changing(
                number,
                # Their sizes differ by a few bytes, as those that are zero are left out.
                lambda data: framed(data[8:-1][:shorter])))  # pylint: disable=cell-var-from-loop
        bystanders.expect_undisturbed(size)


@behaviour(*STAGES)
def a_frame_that_claims_to_be_huge_ends_the_connection_at_once(stage):
    with OffsetRelay(options=["--debug"]) as relay:
        bystanders = Bystanders(relay)
        for claim in HUGE:
            with node_with(relay, changing(
                    STAGES[stage],
                    lambda data: struct.pack(">Q", claim))) as node:  # pylint: disable=cell-var-from-loop
                try:
                    node.greet()
                    node.shake_hands()
                    node.listen()
                    if STAGES[stage] == LATER:
                        node.send_keepalive()
                    node.expect_closed()
                except Closed:
                    pass
        bystanders.expect_undisturbed(len(HUGE))


@behaviour()
def a_whole_connection_replayed_is_refused():
    with OffsetRelay(options=["--debug"]) as relay:
        bystanders = Bystanders(relay)
        recorded = []
        with node_with(relay, lambda _, data: recorded.append(data) or data) as node:
            go_on(node)
        with socket.create_connection(("127.0.0.1", relay.port), PATIENCE) as replay:
            replay.sendall(b"".join(recorded))
            try:
                while replay.recv(4096):
                    pass
            except ConnectionResetError:
                pass
        bystanders.expect_undisturbed(1)


BEFORE = 7  # messages that pass before one is tampered with
IN_A_TUNNEL = FIRST + 1 + 3 + BEFORE  # behind Connect, and what a new tunnel has exchanged


def arriving_in_a_tunnel(relay, listener, outgoing):
    """How many messages arrive before tampering ends the tunnel."""
    connector = relay.connector(listener, outgoing=outgoing)
    acceptor = relay.acceptor(listener, connector)
    exchange(connector, acceptor)
    try:
        for _ in range(BEFORE + 5):
            connector.send(os.urandom(100))
        connector.expect_closed()
    except Closed:
        pass
    return receive_all(acceptor).count


@behaviour(*(way.__name__.replace("_", " ") for way in WAYS_TO_TAMPER))
def tampering_in_a_tunnel_ends_it_behind_what_came_before(name):
    way = getattr(sys.modules[__name__], name.replace(" ", "_"))
    with OffsetRelay(options=["--debug"]) as relay:
        bystanders = Bystanders(relay)
        arrived = arriving_in_a_tunnel(relay, bystanders.listener, way(IN_A_TUNNEL))
        # What is replayed, or cut, is refused behind or at the one that was meant.
        assert arrived == BEFORE + (name == "replayed"), f"{arrived} messages arrived"
        bystanders.expect_undisturbed(1)


# Parts of a frame in a tunnel: its size, a nonce, the text, a tag.
PLACES = {"its size, first byte": 0, "its size, last byte": 7, "its nonce, first byte": 8,
          "its nonce, last byte": 19, "its text, first byte": 20, "its text, last byte": -17,
          "its tag, first byte": -16, "its tag, last byte": -1}


@behaviour(*PLACES)
def any_flipped_bit_in_a_tunnel_ends_it_behind_what_came_before(place):
    with OffsetRelay(options=["--debug"]) as relay:
        bystanders = Bystanders(relay)
        for bit in range(8):
            arrived = arriving_in_a_tunnel(relay, bystanders.listener, changing(
                IN_A_TUNNEL, lambda data: with_a_bit_flipped(
                    data, PLACES[place], bit)))  # pylint: disable=cell-var-from-loop
            assert arrived == BEFORE, f"{arrived} messages arrived"
        bystanders.expect_undisturbed(8)


# ---- nonsense --------------------------------------------------------------------------


def expect_nonsense_refused(relay, nonsense):
    """nonsense(node) says the rest, on a connection that has not been greeted on."""
    with node_with(relay, None) as node:
        try:
            nonsense(node)
        except Closed:
            pass
        expect_end(node)


def expect_end(node):
    """Whatever else comes before."""
    try:
        while True:
            node.receive_frame()
    except Closed:
        pass


def another_version(node):
    node.send_frame(b"\0\0\0\1")
    node.send_frame(node.channel.exchange_rand_nonce())
    node.flush()


def a_version_of_ones(node):
    node.outgoing = changing(VERSION_FRAME, lambda data: framed(b"\xff" * 4))
    node.greet()


def empty_nonces(node):
    node.outgoing = changing(NONCES, lambda data: framed(b""))
    node.greet()


def random_nonces(node):
    node.outgoing = changing(NONCES, lambda data: framed(os.urandom(100)))
    node.greet()


def an_identity_of_zeros(node):
    node.channel.identity.key = bytes(32)
    node.greet()
    node.shake_hands()


def a_signature_by_another_key(node):
    node.greet()
    node.channel.identity = Identity()
    node.shake_hands()


def the_keys_of(node, change):
    """What is in ExchangeDh goes through change()."""
    node.outgoing = changing(KEYS, lambda data: framed(
        capnp.write_exchange_dh(*change(*capnp.read_exchange_dh(data[8:])))))
    node.greet()
    node.shake_hands()


def another_nonce_well_signed(node):
    def change(public, _, salt, __):
        nonce = os.urandom(16)
        return public, nonce, salt, node.identity.sign(public + nonce + salt)
    the_keys_of(node, change)


def a_public_key_of_zeros_well_signed(node):
    def change(_, nonce, salt, __):
        public = bytes(32)
        return public, nonce, salt, node.identity.sign(public + nonce + salt)
    the_keys_of(node, change)


def a_signature_of_zeros(node):
    the_keys_of(node, lambda public, nonce, salt, _: (public, nonce, salt, bytes(64)))


def shaken(node):
    node.greet()
    node.shake_hands()


def a_frame_of(size):
    def say(node):
        shaken(node)
        node.listen()
        node.send_frame(os.urandom(size))
        node.flush()
    say.__name__ = f"a frame of {size} bytes"
    return say


def a_plaintext_that_is_no_message(node):
    shaken(node)
    node.listen()
    node.send_frame(node.channel.sending.seal(os.urandom(50)))
    node.flush()


def an_empty_plaintext(node):
    shaken(node)
    node.send_frame(node.channel.sending.seal(b""))
    node.flush()


def a_rekey_with_a_public_key_of_zeros(node):
    shaken(node)
    node.listen()
    node.send_frame(node.channel.sending.seal(
        capnp.write_channel_message(b"", rekey=(bytes(32), Exchange().salt))))
    node.flush()


def first_message(message):
    def say(node):
        shaken(node)
        node.send(message)
    say.__name__ = f"the first message {message.hex() or 'empty'}"
    return say


def a_reject_that_cannot_be_read(node):
    shaken(node)
    node.listen()
    node.send(b"\xff")


with open(os.path.join(TOP, "tests", "offset-vectors.json"), encoding="utf-8") as vectors_file:
    INVALID = json.load(vectors_file)["invalid_messages"]["cases"]


def invalid_ka_message(case):
    def say(node):
        shaken(node)
        node.listen()
        node.send_user(bytes.fromhex(case["packed"]))
    say.__name__ = f"a KaMessage, {case['comment']}"
    return say


NONSENSE = (
    another_version, a_version_of_ones, empty_nonces, random_nonces, an_identity_of_zeros,
    a_signature_by_another_key, another_nonce_well_signed, a_public_key_of_zeros_well_signed,
    a_signature_of_zeros, *map(a_frame_of, (0, 1, 11, 12, 27, 28)), a_plaintext_that_is_no_message,
    an_empty_plaintext, a_rekey_with_a_public_key_of_zeros, first_message(b""),
    first_message(bytes(range(1, 40))), first_message(bytes.fromhex("100350010101030001")),
    first_message(capnp.write_init_connection("connect", bytes(32))[:-1]),
    a_reject_that_cannot_be_read, *map(invalid_ka_message, INVALID))


@behaviour(*(say.__name__.replace("_", " ") for say in NONSENSE))
def nonsense_is_closed_with_one_log_line(name):
    [nonsense] = [say for say in NONSENSE if say.__name__.replace("_", " ") == name]
    with OffsetRelay(options=["--debug"]) as relay:
        bystanders = Bystanders(relay)
        expect_nonsense_refused(relay, nonsense)
        bystanders.expect_undisturbed(1)


# ---- silence ---------------------------------------------------------------------------


def nothing_at_all(_):
    pass


def half_a_version(node):
    node.socket.sendall(b"\0\0\0\0\0\0\0\4\0")


def a_version_only(node):
    node.socket.sendall(framed(bytes(4)))


def half_the_nonces(node):
    node.outgoing = changing(NONCES, lambda data: data[:40])
    node.greet()


def nonces_only(node):
    node.greet()


def half_the_keys(node):
    node.outgoing = changing(KEYS, lambda data: data[:40])
    shaken(node)


def keepalives_only(node):
    shaken(node)
    node.send_keepalive()


SILENCES = (nothing_at_all, half_a_version, a_version_only, half_the_nonces, nonces_only,
            half_the_keys, shaken, keepalives_only)


@behaviour("serve", "accept")
def a_client_that_stalls_in_a_handshake_is_closed_and_holds_no_other_client_up(how):
    with OffsetRelay(how, ["--handshake-timeout=2"]) as relay:
        listener = relay.listener()
        stalled = []
        for silence in SILENCES:
            stalled.append(node_with(relay, None))
            silence(stalled[-1])
        exchange(*relay.tunnel(listener))
        for node in stalled:
            expect_end(node)
        exchange(*relay.tunnel(listener))


@behaviour("reset", "close")
def hanging_up_at_any_point_disturbs_no_other_client(way):
    with OffsetRelay(options=["--debug"]) as relay:
        bystanders = Bystanders(relay)
        for _ in range(5):
            for silence in SILENCES:
                node = node_with(relay, None)
                silence(node)
                getattr(node, way)()
            time.sleep(0.05)
        exchange(*bystanders.ends)
        exchange(*relay.tunnel(bystanders.listener))


if __name__ == "__main__":
    run()
