"""How Offset nodes meet and talk through the relay, held against the real process with a client of
our own."""

import base64
import json
import os
import random
import stat
import tempfile

import offset_capnp as capnp
from harness import Relay, behaviour, resident, run, wait_until, wait_until_still
from offset_client import (Closed, Connection, Identity, PADDING_MAX, Refused, base64url, framed,
                           no_padding)
from offset_relay import (OffsetRelay, Tally, Task, WAYS, exchange, message_of, receive_all,
                          receive_many, send_all)

MEBIBYTE = 1 << 20


# ---- meeting ---------------------------------------------------------------------------


@behaviour(*WAYS)
def a_node_listens_another_connects_is_announced_accepted_and_they_talk(how):
    with OffsetRelay(how) as relay:
        listener = relay.listener()
        connector = relay.connector(listener)
        acceptor = relay.acceptor(listener, connector)
        for _ in range(10):
            exchange(connector, acceptor)
        for size in (MEBIBYTE, 0, 1):
            for sender, receiver in ((connector, acceptor), (acceptor, connector)):
                message = message_of(size)
                sent = Task(sender.send, message)
                assert receiver.receive() == message
                sent.result()
        connector.close()
        acceptor.expect_closed()
        exchange(*relay.tunnel(listener))


@behaviour()
def messages_that_a_connector_sends_before_it_is_accepted_are_held_and_delivered_in_order():
    with OffsetRelay() as relay:
        listener = relay.listener()
        connector = relay.connector(listener)
        sending = Task(send_all, connector, range(100))
        assert receive_many(relay.acceptor(listener, connector), 100) == sending.result()


@behaviour()
def a_long_message_sent_before_the_accept_is_delivered():
    with OffsetRelay() as relay:
        listener = relay.listener()
        connector = relay.connector(listener)
        message = message_of(MEBIBYTE) * 4
        sending = Task(connector.send, message)
        acceptor = relay.acceptor(listener, connector)
        assert acceptor.receive() == message
        sending.result()
        exchange(connector, acceptor)


@behaviour()
def messages_in_one_segment_with_a_connectors_handshake_are_delivered():
    with OffsetRelay() as relay:
        listener = relay.listener()
        connector = relay.open(handshake=False, padding=no_padding)
        connector.withheld = True
        connector.greet()
        connector.release()
        connector.shake_hands(withhold=True)
        connector.connect_to(listener.identity.key)
        sent = send_all(connector, range(0, 3000, 300))
        connector.release()
        assert listener.incoming() == connector.identity.key
        acceptor = relay.acceptor(listener, connector)
        assert receive_many(acceptor, 10) == sent
        exchange(connector, acceptor)


@behaviour()
def more_than_the_relay_holds_before_the_accept_waits_and_is_delivered():
    with OffsetRelay() as relay:
        listener = relay.listener()
        connector = relay.connector(listener)
        before = resident(relay.forwarder())
        sending = Task(send_all, connector, [MEBIBYTE] * 48)
        wait_until_still(lambda: connector.frames_sent, "the sender")
        assert sending.is_alive(), "the relay takes all without an end"
        grown = resident(relay.forwarder()) - before
        assert grown < 16 * MEBIBYTE, f"the relay grew by {grown} bytes"
        acceptor = relay.acceptor(listener, connector, padding=no_padding)
        received = receive_many(acceptor, 48)
        assert received == sending.result()


@behaviour()
def an_acceptor_may_send_messages_right_behind_its_accept():
    with OffsetRelay() as relay:
        listener = relay.listener()
        connector = relay.connector(listener)
        acceptor = relay.open(listener.identity, handshake=False)
        acceptor.greet()
        acceptor.shake_hands(withhold=True)
        acceptor.accept(connector.identity.key)
        sent = send_all(acceptor, range(50))
        acceptor.release()
        assert receive_many(connector, 50) == sent
        exchange(connector, acceptor)


@behaviour()
def keepalives_and_a_rekey_may_come_before_the_first_message():
    with OffsetRelay() as relay:
        listener = relay.listener()
        connector = relay.open()
        connector.send_keepalive()
        connector.begin_rekey()
        connector.send_keepalive()
        connector.connect_to(listener.identity.key)
        assert listener.incoming() == connector.identity.key
        exchange(connector, relay.acceptor(listener, connector))
        assert connector.channel.rekeys == 1


@behaviour("serve", "accept")
def one_byte_at_a_time_is_understood(how):
    with OffsetRelay(how) as relay:
        listener = relay.listener()
        connector = relay.open(handshake=False, padding=no_padding)
        connector.socket = Trickling(connector.socket)
        connector.greet()
        connector.shake_hands()
        connector.connect_to(listener.identity.key)
        assert listener.incoming() == connector.identity.key
        exchange(connector, relay.acceptor(listener, connector))


class Trickling:
    """A socket that sends one byte at a time."""

    def __init__(self, whole):
        self.whole = whole

    def sendall(self, data):
        for at in range(len(data)):
            self.whole.sendall(data[at:at + 1])

    def __getattr__(self, name):
        return getattr(self.whole, name)


@behaviour(*(shape.__name__.replace("_", " ") for shape in capnp.SHAPES))
def every_shape_of_the_encoding_is_understood(name):
    shape = getattr(capnp, name.replace(" ", "_"))

    def reshaped(number, data):
        payload = data[8:]
        if number == 1:
            values = capnp.read_exchange_rand_nonce(payload)
            return framed(capnp.write_exchange_rand_nonce(*values, shape()))
        if number == 2:
            return framed(capnp.write_exchange_dh(*capnp.read_exchange_dh(payload), shape()))
        return data

    with OffsetRelay() as relay:
        listener = relay.listener()
        with relay.open() as unwanted:
            unwanted.connect_to(listener.identity.key)
            assert listener.incoming() == unwanted.identity.key
            listener.send(capnp.write_public_key(unwanted.identity.key, shape()), shape)
            unwanted.expect_closed()
        ends = []
        for member in ("connect", "accept"):
            listening = member == "connect"
            other = listener.identity if listening else ends[0].identity
            end = relay.open(Identity() if listening else listener.identity, outgoing=reshaped)
            end.send(capnp.write_init_connection(member, other.key, shape()), shape)
            if listening:
                assert listener.incoming() == end.identity.key
            ends.append(end)
        for sender, receiver in (ends, ends[::-1]):
            for size in (0, 1, 7, 8, 9, 8150, 8169, 8176, 8192, 100_000):
                message = message_of(size)
                sender.send(message, shape)
                assert receiver.receive() == message


@behaviour()
def structs_larger_or_smaller_than_known_are_understood():
    with OffsetRelay() as relay:
        listener = relay.listener()
        connector = relay.open()
        writer = capnp.Writer()
        words = writer.struct(capnp.ROOT, 3, 4)
        writer.member(words[0], 2)
        writer.fixed(words[3], listener.identity.key)
        writer.data(words[6], b"of a later version")
        connector.send(writer.packed())
        assert listener.incoming() == connector.identity.key
        acceptor = relay.acceptor(listener, connector)
        for keepalive in ("10010ffcffffff", "10010000"):  # an empty struct, a null pointer
            connector.send_user(bytes.fromhex(keepalive))
        connector.send_user(bytes.fromhex("100350010101010000"))  # a message that is a null pointer
        assert acceptor.receive() == b""
        exchange(connector, acceptor)


# ---- refusals -----------------------------------------------------------------------


@behaviour()
def a_connect_to_a_key_that_does_not_listen_is_closed():
    with OffsetRelay() as relay:
        relay.listener()
        with relay.open() as connector:
            connector.connect_to(Identity().key).expect_closed()


@behaviour()
def relays_that_share_a_directory_keep_their_listeners_apart():
    with OffsetRelay() as first, OffsetRelay(options=[f"--runtime-dir={first.runtime}"]) as second:
        key = Identity()
        with first.listener(key) as here:
            with second.open() as stranger:
                stranger.connect_to(key.key).expect_closed()
            with second.listener(key) as there:
                first.tunnel(here)
                second.tunnel(there)


@behaviour()
def an_accept_of_a_key_that_does_not_wait_is_closed():
    with OffsetRelay() as relay:
        listener = relay.listener()
        with relay.open(listener.identity) as acceptor:
            acceptor.accept(Identity().key).expect_closed()
        exchange(*relay.tunnel(listener))


@behaviour()
def an_accept_by_a_key_that_does_not_listen_is_closed():
    with OffsetRelay() as relay:
        listener = relay.listener()
        connector = relay.connector(listener)
        with relay.open() as stranger:
            stranger.accept(connector.identity.key).expect_closed()
        exchange(connector, relay.acceptor(listener, connector))


@behaviour()
def a_half_tunnel_is_accepted_once():
    with OffsetRelay() as relay:
        listener = relay.listener()
        connector = relay.connector(listener)
        acceptor = relay.acceptor(listener, connector)
        exchange(connector, acceptor)
        with relay.open(listener.identity) as second:
            second.accept(connector.identity.key).expect_closed()
        exchange(connector, acceptor)


@behaviour()
def a_reject_closes_that_half_tunnel_only():
    with OffsetRelay() as relay:
        listener = relay.listener()
        unwanted, wanted = relay.connector(listener), relay.connector(listener)
        listener.reject(unwanted.identity.key)
        unwanted.expect_closed()
        with relay.open(listener.identity) as acceptor:
            acceptor.accept(unwanted.identity.key).expect_closed()
        exchange(wanted, relay.acceptor(listener, wanted))


@behaviour()
def a_node_that_was_rejected_may_connect_again():
    with OffsetRelay() as relay:
        listener, node = relay.listener(), Identity()
        for _ in range(3):
            with relay.connector(listener, node) as connector:
                listener.reject(node.key)
                connector.expect_closed()
        connector = relay.connector(listener, node)
        exchange(connector, relay.acceptor(listener, connector))


@behaviour()
def a_reject_of_an_unknown_key_or_of_a_tunnel_is_ignored():
    with OffsetRelay() as relay:
        listener = relay.listener()
        connector, acceptor = relay.tunnel(listener)
        listener.reject(Identity().key)
        listener.reject(connector.identity.key)
        exchange(connector, acceptor)
        exchange(*relay.tunnel(listener))
        exchange(connector, acceptor)


@behaviour()
def a_second_listen_under_the_same_key_is_closed_and_the_first_stays():
    with OffsetRelay() as relay:
        listener = relay.listener()
        for _ in range(3):
            with relay.open(listener.identity) as second:
                second.listen().expect_closed()
        exchange(*relay.tunnel(listener))


@behaviour("closed", "reset")
def a_key_listens_again_as_soon_as_its_old_connection_is(how):
    with OffsetRelay() as relay:
        listener = relay.listener()
        for _ in range(10):
            getattr(listener, {"closed": "close", "reset": "reset"}[how])()
            # Less than the silence after which any listener counts as gone.
            listener = wait_until(lambda: relay.try_to_listen(listener.identity),
                                  "the key to listen again", 10)
        exchange(*relay.tunnel(listener))


@behaviour()
def a_second_connect_to_the_same_listener_is_closed_and_the_first_stays():
    with OffsetRelay() as relay:
        listener = relay.listener()
        connector = relay.connector(listener)
        with relay.open(connector.identity) as second:
            second.connect_to(listener.identity.key).expect_closed()
        exchange(connector, relay.acceptor(listener, connector))


@behaviour()
def one_key_may_wait_for_many_listeners_and_a_listener_may_have_many_waiting():
    with OffsetRelay() as relay:
        listeners, nodes = [relay.listener() for _ in range(4)], [Identity() for _ in range(4)]
        waiting = [(listener, relay.connector(listener, node))
                   for listener in listeners for node in nodes]
        random.shuffle(waiting)
        ends = [(connector, relay.acceptor(listener, connector)) for listener, connector in waiting]
        for end in ends:
            exchange(*end)


@behaviour()
def a_node_may_connect_to_itself():
    with OffsetRelay() as relay:
        listener = relay.listener()
        connector = relay.connector(listener, listener.identity)
        exchange(connector, relay.acceptor(listener, connector))


@behaviour()
def a_pair_may_have_several_tunnels_beside_its_listener():
    with OffsetRelay() as relay:
        listener, node = relay.listener(), Identity()
        ends = []
        for _ in range(5):
            connector = relay.connector(listener, node)
            ends.append((connector, relay.acceptor(listener, connector)))
            for end in ends:
                exchange(*end)
        ends[2][0].close()
        ends[2][1].expect_closed()
        for end in ends[:2] + ends[3:]:
            exchange(*end)
        exchange(*relay.tunnel(listener))


# ---- going away ------------------------------------------------------------------------


@behaviour("closes", "is reset")
def a_connector_that_leaves_is_forgotten(how):
    with OffsetRelay() as relay:
        listener = relay.listener()
        connector = relay.connector(listener)
        node = connector.identity
        if how == "closes":
            connector.close()
        else:
            connector.reset()
        with relay.open(listener.identity) as acceptor:
            acceptor.accept(node.key).expect_closed()
        # It may come again at once.
        again = relay.connector(listener, node)
        exchange(again, relay.acceptor(listener, again))


@behaviour()
def a_connector_that_leaves_after_speaking_is_forgotten():
    with OffsetRelay() as relay:
        listener = relay.listener()
        connector = relay.connector(listener)
        send_all(connector, [100] * 10)
        connector.close()
        again = wait_until(lambda: reconnect(relay, listener, connector.identity),
                           "the key to be free again", 10)
        exchange(again, relay.acceptor(listener, again))


def reconnect(relay, listener, node):
    connector = relay.open(node).connect_to(listener.identity.key)
    # Refused, or announced: a listener that is asked for a stranger tells which.
    with relay.open(lively=False) as stranger:
        stranger.connect_to(listener.identity.key)
        announced = [listener.incoming()]
        while announced[-1] != stranger.identity.key:
            announced.append(listener.incoming())
    return connector if node.key in announced else None


@behaviour("closes", "is reset", "sends nonsense")
def a_listener_that_leaves_takes_its_half_tunnels_along_and_leaves_its_tunnels(how):
    with OffsetRelay() as relay:
        listener = relay.listener()
        tunnels = [relay.tunnel(listener) for _ in range(3)]
        waiting = [relay.connector(listener) for _ in range(3)]
        if how == "closes":
            listener.close()
        elif how == "is reset":
            listener.reset()
        else:
            listener.send(b"\xff\xff")
            listener.expect_closed()
        for connector in waiting:
            connector.expect_closed()
        with relay.open(listener.identity) as acceptor:
            acceptor.accept(waiting[0].identity.key).expect_closed()
        for tunnel in tunnels:
            exchange(*tunnel)
        exchange(*relay.tunnel(relay.listener(listener.identity)))


@behaviour("connector", "acceptor")
def all_that_was_sent_is_delivered_before_the_end(closing):
    with OffsetRelay() as relay:
        listener = relay.listener()
        for sizes in ([], [0], [100] * 300, [MEBIBYTE] * 8, [1, MEBIBYTE, 1]):
            connector, acceptor = relay.tunnel(listener)
            leaving, staying = ((connector, acceptor) if closing == "connector"
                                else (acceptor, connector))
            received = Task(receive_all, staying)
            sent = send_all(leaving, sizes)
            leaving.close()
            assert received.result() == sent
            staying.close()


@behaviour()
def messages_are_delivered_though_their_sender_has_long_left():
    with OffsetRelay() as relay:
        listener = relay.listener()
        connector, acceptor = relay.tunnel(listener)
        sent = send_all(connector, [10_000] * 20)
        connector.close()
        exchange(*relay.tunnel(listener))  # which comes after that
        assert receive_all(acceptor) == sent


@behaviour()
def messages_are_delivered_though_the_other_side_goes_on_sending():
    with OffsetRelay() as relay:
        for _ in range(5):
            leaving, staying = relay.tunnel()
            speaking = Task(send_until_closed, staying)
            sent = send_all(leaving, [10_000] * 100)
            leaving.finish()  # without reading, and without a reset
            exchange(*relay.tunnel())  # which comes after that
            assert receive_all(staying) == sent
            staying.finish()
            speaking.result()


def send_until_closed(sender):
    try:
        while True:
            sender.send(message_of(50_000))
    except (Closed, OSError):
        pass


@behaviour()
def a_reset_of_one_side_ends_the_other_side():
    with OffsetRelay() as relay:
        listener = relay.listener()
        for ending in (0, 1):
            ends = relay.tunnel(listener)
            ends[ending].reset()
            ends[1 - ending].expect_closed()


# ---- much ------------------------------------------------------------------------------


def mixed_sizes(count):
    edges = [0, 1, 2, 7, 8, 9, 255, 256, 8160, 8168, 8169, 8176, 8177, 8184, 8192, 65535, 65536,
             MEBIBYTE - 1, MEBIBYTE]
    sizes = edges + [int(2 ** random.uniform(0, 20)) for _ in range(count - len(edges))]
    random.shuffle(sizes)
    return sizes


def converse(first, second, sizes):
    """Both speak at once, and both hear all of it."""
    tasks = [(Task(send_all, sender, sizes), Task(receive_many, receiver, len(sizes)))
             for sender, receiver in ((first, second), (second, first))]
    for sent, received in tasks:
        assert sent.result() == received.result(), "not what was sent"


def both_ways(ends):
    return ends, ends[::-1]


@behaviour()
def thousands_of_messages_up_to_a_mebibyte_pass_both_ways_at_once_in_order():
    with OffsetRelay() as relay:
        connector, acceptor = relay.tunnel()
        converse(connector, acceptor, mixed_sizes(1500))
        converse(connector, acceptor, [random.randrange(300) for _ in range(3000)])


@behaviour()
def the_largest_message_with_the_largest_padding_passes():
    with OffsetRelay() as relay:
        for sender, receiver in both_ways(relay.tunnel(padding=lambda: os.urandom(PADDING_MAX))):
            message = message_of(MEBIBYTE)
            sending = Task(sender.send, message)
            assert receiver.receive() == message
            sending.result()


@behaviour(3, 20)
def a_message_of_so_many_million_bytes_passes(millions):
    with OffsetRelay() as relay:
        for sender, receiver in both_ways(relay.tunnel()):
            message = message_of(1_000_000) * millions
            sending = Task(sender.send, message)
            assert receiver.receive() == message
            sending.result()


@behaviour()
def messages_without_padding_pass():
    with OffsetRelay() as relay:
        converse(*relay.tunnel(padding=no_padding), mixed_sizes(300))


@behaviour()
def many_tunnels_talk_at_once():
    with OffsetRelay() as relay:
        ends = [relay.tunnel() for _ in range(20)]
        tasks = [Task(converse, *end, mixed_sizes(25)) for end in ends]
        for task in tasks:
            task.result()


@behaviour()
def a_reader_that_pauses_loses_nothing_and_costs_no_memory():
    with OffsetRelay() as relay:
        connector, acceptor = relay.tunnel(padding=no_padding)
        before = resident(relay.forwarder())
        sending = Task(send_all, connector, [MEBIBYTE] * 64)
        wait_until_still(lambda: connector.frames_sent, "the sender")
        grown = resident(relay.forwarder()) - before
        assert sending.is_alive(), "the relay takes all without an end"
        assert grown < 16 * MEBIBYTE, f"the relay grew by {grown} bytes"
        exchange(*relay.tunnel())
        # The other direction is not held up.
        acceptor.send(b"still here")
        assert connector.receive() == b"still here"
        assert receive_many(acceptor, 64) == sending.result()
        exchange(connector, acceptor)


# ---- new keys --------------------------------------------------------------------------


@behaviour("the connector", "the acceptor", "both")
def new_keys_in_the_middle_of_traffic_are_not_noticed(beginner):
    with OffsetRelay() as relay:
        ends = relay.tunnel(padding=lambda: os.urandom(random.randrange(300)))
        beginning = {"the connector": ends[:1], "the acceptor": ends[1:], "both": ends}[beginner]
        sizes = [random.randrange(5000) for _ in range(1000)]
        receiving = [Task(receive_until_end, receiver) for receiver in ends[::-1]]
        sending = [Task(send_with_rekeys, sender, sizes, sender in beginning) for sender in ends]
        for task in sending:
            task.join()
        for sender in ends:
            sender.send(END)
        for sent, received in zip(sending, receiving):
            assert sent.result() == received.result(), "not what was sent"
        exchange(*ends)
        for end in beginning:
            assert end.channel.rekeys == 50, f"{end.channel.rekeys} rekeys"


END = b"the end of it"


def receive_until_end(receiver):
    tally = Tally()
    while (message := receiver.receive()) != END:
        tally.add(message)
    return tally


def send_with_rekeys(sender, sizes, beginning):
    """Begins a rekey whenever the last one is done; what follows goes out under the old key."""
    tally = Tally()
    for number, size in enumerate(sizes):
        if beginning and number % 20 == 0:
            wait_until(lambda: sender.channel.pending is None, "the last rekey to complete")
            sender.begin_rekey()
        message = message_of(size)
        tally.add(message)
        sender.send(message)
    wait_until(lambda: sender.channel.pending is None, "the last rekey to complete")
    return tally


@behaviour()
def new_keys_for_a_listener_and_for_a_half_tunnel():
    with OffsetRelay() as relay:
        listener = relay.listener()
        listener.begin_rekey()
        connector = relay.connector(listener, padding=no_padding)
        connector.begin_rekey()
        sent = send_all(connector, [100] * 10)  # under the old key, as nobody has answered yet
        listener.begin_rekey()
        acceptor = relay.acceptor(listener, connector)
        assert receive_many(acceptor, 10) == sent
        exchange(connector, acceptor)
        exchange(*relay.tunnel(listener))
        assert connector.channel.rekeys == 1
        assert listener.channel.rekeys == 2


# ---- identity --------------------------------------------------------------------------


@behaviour()
def an_identity_is_made_on_first_use_logged_and_kept():
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        state = os.path.join(directory, "state")
        path = os.path.join(state, "relay.ident")
        seen = []
        for first in (True, False):
            with Relay(options=[f"--state-dir={state}"]) as relay:
                wait_until(lambda: os.path.exists(path), "an identity file")
                with open(path, encoding="ascii") as file:
                    text = file.read()
                assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
                identity = Identity(seed_of(text))
                assert text == json.dumps({"privateKey": base64url(identity.seed)}, indent=2)
                if first:
                    wait_until(lambda: base64url(identity.key) in relay.log(), "the key in the log")
                assert base64url(identity.seed) not in relay.log(), "the secret is logged"
                with Connection(("127.0.0.1", relay.port), Identity(), identity.key) as node:
                    node.connect_to(Identity().key).expect_closed()
                seen.append(identity.key)
        assert seen[0] == seen[1], "another identity after a restart"


def seed_of(text):
    return base64.urlsafe_b64decode(json.loads(text)["privateKey"] + "=")


@behaviour(*WAYS)
def a_node_that_expects_another_relay_finds_out(how):
    with OffsetRelay(how) as relay:
        try:
            Connection(("127.0.0.1", relay.port), Identity(), Identity().key)
        except Refused:
            return
        raise AssertionError("the relay has the other's key")


if __name__ == "__main__":
    run()
