"""A relay that is told to stop: what it has read arrives, nobody new is let in, and those who read
nothing hold it up for a moment only."""

import os
import signal

from harness import (PATIENCE, Relay, alive, behaviour, exchange, line, make_pair, new_side, new_token, run,
                     send_until_blocked, wait_until)
from web_protocols import PAIRS, receive_bytes
from websocket_client import get


def has_ended(relay):
    return relay.process.poll() is not None


def blocked_pair(relay):
    """A pair: one client reads nothing while the other sends. Also the bytes that were sent."""
    token, data = new_token(), os.urandom(1 << 16)
    reader = relay.connect().send(line(token, new_side()))
    sender = relay.connect().send(line(token, new_side()))
    reader.expect(b"ok\n")
    sender.expect(b"ok\n")
    send_until_blocked(sender, data)
    return reader, sender, data


def stop(relay, how):
    relay.process.send_signal(how)


@behaviour("SIGTERM", "SIGINT")
def bytes_that_were_read_arrive_before_the_end(how):
    with Relay() as relay:
        reader, _, data = blocked_pair(relay)
        read = relay.status()["incomplete_bytes"]
        assert read > len(data), "it has read more than its reader was sent"
        stop(relay, getattr(signal, how))
        wait_until(lambda: get(relay, "/healthz").status == 503, "the end to be near")
        wait_until(lambda: relay.status()["states"]["joined"] == 0, "the pair to be parted")
        got = b"".join(iter(lambda: reader.receive_some(1 << 16), b""))
        assert len(got) >= read, f"{len(got)} of {read} bytes arrived"
        assert got == (data * (len(got) // len(data) + 1))[:len(got)], "and as they were sent"
        assert relay.process.wait(PATIENCE) == 0


@behaviour("p2p-copy", "localfirst", "transit")
def messages_that_were_read_arrive_before_the_end(protocol):
    with Relay() as relay:
        sender, reader = PAIRS[protocol](relay)
        data = os.urandom(100000)
        sender.send_binary(data)
        assert receive_bytes(reader, len(data)) == data
        sender.send_binary(data)
        wait_until(lambda: relay.status()["incomplete_bytes"] >= 2 * len(data), "the second message")
        stop(relay, signal.SIGTERM)
        assert receive_bytes(reader, len(data)) == data
        reader.expect_close(1001)
        assert relay.process.wait(PATIENCE) == 0


@behaviour()
def a_forwarder_that_stands_still_is_killed_in_the_end():
    with Relay() as relay:
        exchange(*make_pair(relay))
        forwarder = relay.forwarder()
        os.kill(forwarder, signal.SIGSTOP)
        stop(relay, signal.SIGTERM)
        assert relay.process.wait(2 * PATIENCE) == 0
        assert not alive(forwarder) and "the forwarder does not end: killing it" in relay.log(), relay.log()


@behaviour()
def its_health_is_503_until_it_has_ended():
    with Relay() as relay:
        reader, _, _ = blocked_pair(relay)
        assert get(relay, "/healthz").status == 200
        stop(relay, signal.SIGTERM)
        wait_until(lambda: get(relay, "/healthz").status == 503, "the end to be near")
        late = relay.connect().send(line(new_token(), new_side()))
        late.expect_end()
        assert not has_ended(relay)
        reader.close()
        assert relay.process.wait(PATIENCE) == 0


@behaviour()
def a_client_that_reads_nothing_does_not_keep_the_relay_from_ending():
    with Relay() as relay:
        blocked_pair(relay)
        make_pair(relay)
        waiting = relay.connect().send(line(new_token(), new_side()))
        relay.wait_for(waiting=1)
        stop(relay, signal.SIGTERM)
        waiting.expect_end()
        assert relay.process.wait(PATIENCE) == 0


if __name__ == "__main__":
    run()
