"""@localfirst/relay: introductions and the connections that follow them, byte by byte. (Real clients:
peers/localfirst_test.py.)"""

import os
import threading
import time

import msgpack
from harness import Relay, behaviour, resident, run
from web_protocols import (connection, connection_pair, exchange, expect_introduction, introduced,
                           introduction, join, leave)
from websocket_client import (BINARY, CONTINUATION, PING, PONG, TEXT, WebSocket, frame, get,
                              try_upgrade)

WAYS = ("serve", "accept")


@behaviour()
def other_forms_of_the_two_paths_are_404():
    with Relay() as relay:
        for path in ("/introduction", "/introduction/", "/introduction/alice/more", "/connection",
                     "/connection/alice", "/connection/alice/bob", "/connection/alice/bob/",
                     "/connection/alice//doc", "/connection/alice/bob/doc/more",
                     "/relay/introduction", "/relay/connection/alice/bob"):
            response = try_upgrade(relay, path)
            assert response.status == 404, f"{path}: {response.status}"
        assert get(relay, "/nothing/here").status == 404


@behaviour(*WAYS)
def two_peers_with_a_document_in_common_are_introduced_to_each_other(how):
    with Relay(how) as relay:
        alice = introduced(relay, "alice", "doc", "only hers").settle()
        bob = introduced(relay, "bob", "only his", "doc")
        expect_introduction(alice, "bob", "doc")
        expect_introduction(bob, "alice", "doc")


@behaviour()
def an_introduction_names_all_documents_in_common():
    with Relay() as relay:
        alice = introduced(relay, "alice", "a", "b", "c").settle()
        bob = introduced(relay, "bob", "b", "c", "d")
        expect_introduction(bob, "alice", "b", "c")
        expect_introduction(alice, "bob", "b", "c")
        join(bob, "a")
        expect_introduction(alice, "bob", "a", "b", "c")
        expect_introduction(bob, "alice", "a", "b", "c")


@behaviour()
def joining_again_introduces_again():
    with Relay() as relay:
        alice = introduced(relay, "alice", "doc").settle()
        bob = introduced(relay, "bob", "doc")
        for _ in range(3):
            expect_introduction(alice, "bob", "doc")
            expect_introduction(bob, "alice", "doc")
            join(bob, "doc")


@behaviour()
def documents_that_are_joined_again_are_all_that_is_named_again():
    documents = [f"doc-{number}" for number in range(200)]
    with Relay() as relay:
        alice = introduced(relay, "alice", *documents).settle()
        bob = introduced(relay, "bob", *documents)
        expect_introduction(alice, "bob", *documents)
        expect_introduction(bob, "alice", *documents)
        join(bob, "doc-7", "doc-8")
        expect_introduction(alice, "bob", "doc-7", "doc-8")
        expect_introduction(bob, "alice", "doc-7", "doc-8")


@behaviour()
def five_peers_are_all_introduced():
    with Relay() as relay:
        names = [f"peer-{letter}" for letter in "abcde"]
        clients = [introduced(relay, name) for name in names]
        for client in clients:
            join(client, "doc")
        for name, client in zip(names, clients):
            met = sorted(introduction(client)[0] for _ in range(4))
            assert met == [other for other in names if other != name], met


@behaviour()
def a_peer_that_leaves_amid_introductions_harms_no_other_peer():
    with Relay() as relay:
        names = [f"peer-{letter}" for letter in "abcde"]
        clients = [introduced(relay, name) for name in names]
        join(clients[0], "doc").reset()
        for client in clients[1:]:
            join(client, "doc")
        for name, client in list(zip(names, clients))[1:]:
            met = set()
            while len(met - {"peer-a"}) < 3:
                met.add(introduction(client)[0])
            assert name not in met


@behaviour()
def a_peer_that_has_left_a_document_is_not_introduced_for_it():
    with Relay() as relay:
        alice = introduced(relay, "alice", "kept", "left")
        leave(alice, "left", "never joined").settle()
        bob = introduced(relay, "bob", "left")
        bob.settle()
        join(bob, "kept")
        expect_introduction(bob, "alice", "kept")
        expect_introduction(alice, "bob", "kept")


@behaviour()
def a_peer_that_is_gone_is_not_introduced():
    with Relay() as relay:
        for end in ("close", "reset"):
            gone = introduced(relay, f"gone-{end}", "doc").settle()
            watcher = introduced(relay, f"watcher-{end}")
            getattr(gone, end)()
            relay.wait_for(used=1)
            join(watcher, "doc")
            watcher.settle()
            watcher.close()
            relay.wait_for(used=0)


@behaviour()
def heartbeats_and_unknown_messages_are_ignored():
    with Relay() as relay:
        alice = introduced(relay, "alice")
        for message in ({"type": "Heartbeat"}, {"type": "❤️"}, {"type": "Other", "x": [1.5, None]},
                        {"type": 7}, {}, {"documentIds": ["doc"]}, ["Join"], "Join", 3, None):
            alice.send_binary(msgpack.packb(message))
        join(alice, "doc").settle()
        bob = introduced(relay, "bob", "doc")
        expect_introduction(bob, "alice", "doc")


@behaviour()
def a_client_of_version_3_is_told_which_version_this_relay_is_for():
    with Relay() as relay:
        alice = introduced(relay, "alice", "doc").settle()
        for message in ('{"type":"Join","documentIds":["doc"]}', '{"type":"Heartbeat"}'):
            why = WebSocket(relay, "/introduction/bob").send_text(message).expect_close(1003).reason
            assert "version 3" in why and "version 4" in why, why
        for message in "", "Hello", "[]":
            introduced(relay, "carol").send_text(message).settle()
        alice.settle()  # and was introduced to no peer


MALFORMED = [b"\x01\x02\x03", b"", b"\xc1", b"\x81", b"\x82\xa4type\xa4Join", b"\xdf\xff\xff\xff\xff",
             b"\x82\xa4type\xa4Join\xabdocumentIds\xdd\xff\xff\xff\xff",
             b"\x81\xa4type\xdb\xff\xff\xff\xff", b"\x91" * 10_000, os.urandom(2000),
             msgpack.packb({"type": "Join", "documentIds": [1, None, {}]}),
             msgpack.packb({"type": "Join"})]


@behaviour()
def malformed_data_disturbs_nothing():
    with Relay() as relay:
        alice = introduced(relay, "alice", "doc").settle()
        for number, data in enumerate(MALFORMED):
            bob = introduced(relay, f"bob-{number}")
            bob.send_binary(data)
            join(bob, "doc")
            expect_introduction(bob, "alice", "doc")
            expect_introduction(alice, f"bob-{number}", "doc")
            bob.close_politely()
            relay.wait_for(used=1)


@behaviour()
def any_valid_form_of_messagepack_is_read():
    def text(word, form):
        size, data = len(word), word.encode()
        return {"str8": b"\xd9" + bytes([size]), "str16": b"\xda" + size.to_bytes(2, "big"),
                "str32": b"\xdb" + size.to_bytes(4, "big")}[form] + data

    with Relay() as relay:
        alice = introduced(relay, "alice", "doc").settle()
        bob = introduced(relay, "bob")
        for string in ("str8", "str16", "str32"):
            for map_head in (b"\x82", b"\xde\0\x02", b"\xdf\0\0\0\x02"):
                for array in (b"\x91", b"\xdc\0\x01", b"\xdd\0\0\0\x01"):
                    bob.send_binary(map_head + text("documentIds", string) + array
                                    + text("doc", string) + text("type", string)
                                    + text("Join", string))
                    expect_introduction(bob, "alice", "doc")
                    expect_introduction(alice, "bob", "doc")


@behaviour()
def ids_are_percent_decoded_and_sent_as_they_were_meant():
    with Relay() as relay:
        alice = introduced(relay, "al%20ice%2F%F0%9F%90%9F", "doc/ü").settle()
        bob = introduced(relay, "b%6fb", "doc/ü")
        expect_introduction(bob, "al ice/🐟", "doc/ü")
        expect_introduction(alice, "bob", "doc/ü")
        first = connection(relay, "al%20ice", "b%6Fb", "doc%2F%C3%BC")
        second = connection(relay, "bob", "%61l%20ice", "d%6Fc%2f%c3%bc")
        exchange(first, second)


def early_words(relay):
    """A client that came first and has sent a message, and one that has read no more than the answer."""
    first = connection(relay, "alice", "bob", "doc").send_binary(b"early").settle()
    return first, connection(relay, "bob", "alice", "doc")


@behaviour()
def a_newcomer_gets_early_messages_once_it_has_sent_something():
    with Relay() as relay:
        for answer in frame(PONG), frame(PING, b"?"), frame(TEXT, b"Hello"):
            first, second = early_words(relay)
            assert second.receive_frame() == (True, PING, b"")
            first.send_binary(b"late")
            second.send(answer)
            if answer[0] & 0x0F == PING:
                second.expect_pong(b"?")
            second.expect_binary(b"early").expect_binary(b"late")
            first.close()
            second.close()
            relay.wait_for(used=0)


@behaviour()
def a_newcomer_that_does_not_answer_gets_early_messages_a_little_later():
    with Relay() as relay:
        first, second = early_words(relay)
        second.answers_pings = False
        second.expect_binary(b"early")
        exchange(first, second)


@behaviour()
def early_messages_arrive_though_their_sender_has_closed():
    with Relay() as relay:
        first, second = early_words(relay)
        assert second.receive_frame() == (True, PING, b"")
        first.send_binary(b"late").send_close(3000)
        second.send_frame(PONG).expect_binary(b"early").expect_binary(b"late").expect_close(1000)
        first.expect_close(3000)


TOO_MUCH = "too many documents, or ids that are too long"


@behaviour()
def a_peer_holds_1024_documents_and_is_closed_with_1008_for_one_more():
    documents = [f"doc-{number}" for number in range(1024)]
    with Relay() as relay:
        alice = introduced(relay, "alice", *documents).settle()
        join(alice, *documents[:5]).settle()  # are there already
        leave(alice, documents[0])
        join(alice, "another").settle()
        bob = introduced(relay, "bob", *documents)
        expect_introduction(bob, "alice", *documents[1:])
        expect_introduction(alice, "bob", *documents[1:])
        join(alice, "one more").expect_close(1008, TOO_MUCH)
        introduced(relay, "carol", *documents, "one more").expect_close(1008, TOO_MUCH)
        bob.settle()  # of carol, nothing is heard
        expect_introduction(introduced(relay, "dave", "doc-7"), "bob", "doc-7")


@behaviour()
def ids_may_be_as_long_as_a_request_has_room_for():
    longest = "ü" * 5000
    encoded = "%C3%BC" * 5000
    with Relay() as relay:
        alice = introduced(relay, encoded, longest).settle()
        expect_introduction(introduced(relay, "bob", longest), longest, longest)
        expect_introduction(alice, "bob", longest)
        exchange(connection(relay, encoded, "bob", "doc"), connection(relay, "bob", encoded, "doc"))
        exchange(connection(relay, "alice", "bob", "x" * 32000), connection(relay, "bob", "alice", "x" * 32000))
        for say in (join, leave):
            say(introduced(relay, "carol"), "doc", "x" * 32769).expect_close(1008, TOO_MUCH)
        assert try_upgrade(relay, f"/introduction/{'x' * 32768}").status == 431
        alice.settle()


@behaviour("relay", "a/b%20c/d")
def both_paths_may_be_under_a_prefix(prefix):
    with Relay() as relay:
        alice = join(WebSocket(relay, f"/{prefix}/introduction/alice"), "doc").settle()
        expect_introduction(introduced(relay, "bob", "doc"), "alice", "doc")
        expect_introduction(alice, "bob", "doc")
        exchange(WebSocket(relay, f"/{prefix}/connection/alice/bob/doc"), connection(relay, "bob", "alice", "doc"))


@behaviour("in one frame", "in fragments")
def a_message_of_256_KiB_is_read_and_a_longer_one_closed_with_1008(how):
    def padded_join(size):
        message = {"type": "Join", "documentIds": ["doc"], "padding": b""}
        rest = size - len(msgpack.packb(message)) - 3  # a size of 1 byte takes 4 then
        return msgpack.packb({**message, "padding": bytes(rest)})

    def say(client, message):
        if how == "in one frame":
            return client.send_binary(message)
        parts = [message[at:at + 10_000] for at in range(0, len(message), 10_000)]
        for number, part in enumerate(parts):
            client.send_frame(CONTINUATION if number else BINARY, part, final=part is parts[-1])
        return client

    with Relay() as relay:
        alice = introduced(relay, "alice", "doc").settle()
        bob = introduced(relay, "bob")
        longest = padded_join(1 << 18)
        assert len(longest) == 1 << 18
        say(bob, longest)
        expect_introduction(bob, "alice", "doc")
        expect_introduction(alice, "bob", "doc")
        say(bob, longest + b"x").expect_close(1008)
        alice.settle()


@behaviour()
def joins_that_come_at_once_are_one_introduction():
    with Relay() as relay:
        alice = introduced(relay, "alice", "a", "b", "c").settle()
        bob = introduced(relay, "bob")
        bob.send(b"".join(frame(BINARY, msgpack.packb({"type": "Join", "documentIds": [name]}))
                          for name in "abc"))
        for client, other in ((bob, "alice"), (alice, "bob")):
            expect_introduction(client, other, "a", "b", "c")
            client.settle()  # and nothing more


@behaviour()
def a_join_introduces_the_256_peers_that_joined_last_and_its_own_peer_has_to_pause():
    count = 256
    with Relay() as relay:
        clients = []
        for number in range(count + 2):
            clients.append(introduced(relay, f"peer-{number}", "doc"))
            for _ in range(min(number, count)):  # so that they join in this order
                introduction(clients[-1])
        newcomer = introduced(relay, "newcomer")
        started = time.monotonic()
        join(newcomer, "doc")
        met = [introduction(newcomer)[0] for _ in range(count)]
        assert met == [f"peer-{number}" for number in range(count + 1, 1, -1)], met
        join(newcomer, "doc")
        introduction(newcomer)
        assert time.monotonic() - started > 0.09, "who made for many messages rests 0.1 seconds"
        for _ in range(count - 1):
            introduction(newcomer)
        newcomer.settle()


@behaviour()
def the_newest_connection_of_a_peer_is_the_one_that_counts():
    with Relay() as relay:
        old = introduced(relay, "alice", "doc").settle()
        new = introduced(relay, "alice", "doc").settle()
        bob = introduced(relay, "bob", "doc")
        expect_introduction(bob, "alice", "doc")
        expect_introduction(new, "bob", "doc")
        # The old one is left alone: the real client comes back at once when it is closed, so that two
        # of one id would take the place of each other for ever.
        old.settle()


@behaviour()
def the_close_of_the_old_connection_does_not_remove_the_new():
    with Relay() as relay:
        for number, end in enumerate(("close", "reset")):
            old = introduced(relay, "alice", "doc").settle()
            new = introduced(relay, "alice", "doc").settle()
            getattr(old, end)()
            relay.wait_for(used=1)
            bob = introduced(relay, f"bob-{number}", "doc")
            expect_introduction(bob, "alice", "doc")
            expect_introduction(new, f"bob-{number}", "doc")
            new.close()
            bob.close()
            relay.wait_for(used=0)


@behaviour(*WAYS)
def reciprocal_requests_are_piped_both_ways(how):
    with Relay(how) as relay:
        first, second = connection_pair(relay)
        for size in (1, 1000, 100_000):
            exchange(first, second, size)


@behaviour()
def early_messages_are_held_and_come_first_unchanged_and_in_order():
    with Relay() as relay:
        alice = connection(relay, "alice", "bob", "doc")
        alice.send_text("first").send_binary(b"second").send_binary(b"").send_text("fourth")
        alice.send_binary(bytes(100_000))
        alice.settle()
        bob = connection(relay, "bob", "alice", "doc")
        alice.send_text("last")
        bob.expect_text("first").expect_binary(b"second").expect_binary(b"").expect_text("fourth")
        bob.expect_binary(bytes(100_000)).expect_text("last")


@behaviour()
def early_messages_are_held_up_to_a_bound_and_none_is_dropped():
    with Relay() as relay:
        alice = connection(relay, "alice", "bob", "doc")
        relay.wait_for(waiting=1)
        before = resident(relay.forwarder())
        alice.socket.settimeout(1)
        data, count, stuck = os.urandom(1 << 20), 0, False
        sent = bytearray()
        while not stuck and count < 128:
            wire = frame(BINARY, data)
            try:
                while wire:
                    size = alice.socket.send(wire)
                    sent += wire[:size]
                    wire = wire[size:]
                count += 1
            except TimeoutError:
                stuck = True
        assert stuck, f"{count} MiB were taken before anyone came for them"
        grown = resident(relay.forwarder()) - before
        assert grown < 8 << 20, f"the forwarder has grown by {grown} bytes"
        bob = connection(relay, "bob", "alice", "doc")
        alice.socket.settimeout(20)
        thread = threading.Thread(target=alice.send, args=(wire,))
        thread.start()
        for _ in range(count + 1):
            bob.expect_binary(data)
        thread.join()


@behaviour()
def the_same_two_peers_hold_any_number_of_documents():
    with Relay() as relay:
        documents = [f"doc-{number}" for number in range(50)]
        mine = {name: connection(relay, "alice", "bob", name) for name in documents}
        for name in documents:
            mine[name].send_text(name)
        for name in reversed(documents):
            theirs = connection(relay, "bob", "alice", name)
            theirs.expect_text(name)
            exchange(theirs, mine[name])


@behaviour()
def peers_that_have_not_asked_for_each_other_do_not_meet():
    with Relay() as relay:
        alice = connection(relay, "alice", "bob", "doc")
        others = [connection(relay, *ids) for ids in (
            ("bob", "alice", "other"), ("alice", "carol", "doc"),
            ("carol", "alice", "doc"), ("bob", "carol", "doc"), ("alice:bob", "x", "doc"))]
        relay.wait_for(waiting=4, joined=2)  # alice and carol did ask for each other
        bob = connection(relay, "bob", "alice", "doc")
        exchange(alice, bob)
        relay.wait_for(waiting=len(others) - 2, joined=4)


@behaviour()
def a_request_that_is_repeated_takes_the_place_of_the_first():
    with Relay() as relay:
        old = connection(relay, "alice", "bob", "doc").settle()
        new = connection(relay, "alice", "bob", "doc").settle()
        old.close()
        relay.wait_for(used=1)
        bob = connection(relay, "bob", "alice", "doc")
        exchange(new, bob)


@behaviour()
def the_close_of_one_side_closes_the_other():
    with Relay() as relay:
        for end in ("close_politely", "close", "reset"):
            first, second = connection_pair(relay)
            first.send_binary(b"goodbye")
            second.expect_binary(b"goodbye")
            getattr(first, end)()
            second.expect_closed()
            second.close()
            relay.wait_for(used=0)


if __name__ == "__main__":
    run()
