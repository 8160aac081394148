"""While relay is upgraded, workers and the forwarder are of different versions: they understand each
other, or a worker says that they do not before its client has met anybody."""

import contextlib
import os
import struct

from harness import Relay, behaviour, exchange, make_pair, run, wait_until
from web_protocols import expect_introduction, introduced, p2p_pair
from websocket_client import Closed

FIRST, LATER = 1, 1000
LONG = "x" * 1000  # an id that the first version has no room for
HEADER = 4096


@contextlib.contextmanager
def beside_a_forwarder_of(version):
    """A relay whose forwarder says in the table that it is of that version."""
    with Relay() as relay:
        forwarder = wait_until(relay.forwarder, "a forwarder")
        with open(os.path.join(relay.runtime, "table"), "r+b") as table:
            said = table.read(HEADER).index(struct.pack("=i", forwarder)) + 4
            table.seek(said)
            assert 0 < struct.unpack("=I", table.read(4))[0] < LATER, "the version is found"
            table.seek(said)
            table.write(struct.pack("=I", version))
        yield relay


def expect_closed(client):
    try:
        client.receive_message()
    except Closed as end:
        return end.code
    raise AssertionError("it is not closed")


@behaviour("the first version", "a later version")
def workers_hand_over_to_a_forwarder_of(which):
    with beside_a_forwarder_of(FIRST if which == "the first version" else LATER) as relay:
        first, second = make_pair(relay)
        exchange(first, second)
        p2p_pair(relay)
        alice = introduced(relay, "alice", "a document").settle()
        expect_introduction(introduced(relay, "bob", "a document"), "alice", "a document")
        expect_introduction(alice, "bob", "a document")
        assert "version" not in relay.log(), relay.log()


@behaviour()
def a_client_that_the_first_version_cannot_take_is_told_so_and_all_others_are_served():
    with beside_a_forwarder_of(FIRST) as relay:
        assert expect_closed(introduced(relay, LONG, "a document")) == 1013
        assert "of a version that cannot take it over; restart it" in relay.log(), relay.log()
        relay.wait_for(used=0)
        exchange(*make_pair(relay))


if __name__ == "__main__":
    run()
