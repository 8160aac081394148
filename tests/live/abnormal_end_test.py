"""How one side of a pair ends decides how the other side's connection ends: what was sent arrives, and then
an end that looks as what it is. An end of file, a close frame and a close_notify are said by who has
come to its own end; a transfer that was cut off must not look whole."""

import contextlib
import os
import signal
import ssl
import threading
import time

from harness import Client, Relay, behaviour, line, make_pair, new_side, new_token, run
from tls_client import FIRST, Secure
from web_protocols import (PAIRS, connection, introduced, new_code, p2p_pair, receive_bytes, sender,
                           transit)
from websocket_client import BINARY, CLOSE, CONTINUATION, TEXT, Closed, WebSocket, frame

LINGER = 2  # seconds
DATA = os.urandom(300_000)


def receive_to_the_end(client):
    """The bytes that arrive, and whether an end of file follows them (else a reset)."""
    parts = []
    try:
        while part := client.socket.recv(1 << 16):
            parts.append(part)
        return b"".join(parts), True
    except ConnectionResetError:
        return b"".join(parts), False


# ---- bytes ----------------------------------------------------------------------------


@behaviour()
def a_reset_arrives_as_a_reset_after_all_that_was_sent_before_it():
    with Relay() as relay:
        first, second = make_pair(relay)
        first.send(DATA)
        second.expect(DATA[:1000])
        relay.wait_for(joined=2)
        first.reset()
        relay.wait_for(joined=0)
        rest, whole = receive_to_the_end(second)
        assert rest == DATA[1000:len(rest) + 1000], "what arrives is what was sent"
        assert not whole, "a stream that was cut off looks whole"
        relay.wait_for(used=0)


@behaviour()
def an_end_of_file_is_passed_on_as_one_though_its_sender_has_gone_before_the_answer():
    with Relay() as relay:
        first, second = make_pair(relay)
        first.send(DATA).close()
        assert receive_to_the_end(second) == (DATA, True)
        second.close()
        relay.wait_for(used=0)


@behaviour()
def the_other_direction_of_a_pair_goes_on_as_long_as_bytes_move():
    with Relay(options=[f"--linger={LINGER}"]) as relay:
        first, second = make_pair(relay)
        first.finish()
        second.expect_end()
        until = time.monotonic() + 2 * LINGER
        sent = 0
        while time.monotonic() < until:
            second.send(DATA[sent:sent + 1000])
            first.expect(DATA[sent:sent + 1000])
            sent += 1000
            time.sleep(LINGER / 8)
        second.finish()
        first.expect_end()
        relay.wait_for(used=0)


@behaviour()
def the_other_direction_of_a_pair_that_falls_silent_ends_in_a_reset():
    with Relay(options=["--linger=1"]) as relay:
        first, second = make_pair(relay)
        first.finish()
        second.expect_end()
        second.send(DATA[:1000])
        assert receive_to_the_end(first) == (DATA[:1000], False)
        relay.wait_for(used=0)


# ---- TLS ------------------------------------------------------------------------------


def say_the_end(client):
    """As TLS does, and waits for the same of the other side, which is free not to say it."""
    with contextlib.suppress(ConnectionResetError, ssl.SSLError):
        client.socket.unwrap()


@behaviour("says so", "says nothing", "is reset")
def the_end_of_a_client_in_TLS_is_authentic_to_its_peer_only_if_it_was_announced_in_TLS(how):
    with Relay(options=FIRST.options()) as relay:
        token = new_token()
        first, second = (Secure(relay).send(line(token, new_side())) for _ in range(2))
        first.expect(b"ok\n")
        second.expect(b"ok\n")
        first.send(b"some of it")
        second.expect(b"some of it")
        if how == "says so":
            thread = threading.Thread(target=say_the_end, args=(first,))
            thread.start()
            assert second.socket.recv(1) == b"", "the end is said in TLS"
        else:
            Client.reset(first) if how == "is reset" else first.close()
            try:
                got = second.socket.recv(1)
                raise AssertionError(f"an end that nobody said looks authentic: {got!r}")
            except (ssl.SSLEOFError, ConnectionResetError):
                pass
        second.close()
        relay.wait_for(used=0)
        if how == "says so":
            thread.join()


# ---- messages -------------------------------------------------------------------------


@behaviour(*PAIRS)
def a_client_that_vanishes_between_messages_is_no_normal_close_to_its_peer(protocol):
    with Relay() as relay:
        for vanish in (WebSocket.close, WebSocket.reset):
            first, second = PAIRS[protocol](relay)
            first.send_binary(DATA)
            assert receive_bytes(second, len(DATA)) == DATA
            vanish(first)
            second.expect_close(1011, "the other side was lost")
            second.close()
        relay.wait_for(used=0)


def frames_to_the_end(client):
    """(final, opcode, payload) of all frames that come before the connection ends."""
    frames = []
    try:
        while True:
            frames.append(client.receive_frame())
    except Closed:
        return frames


@behaviour(*PAIRS)
def a_client_that_vanishes_within_a_message_ends_its_peers_connection_without_a_close_frame(protocol):
    with Relay() as relay:
        for vanish in (WebSocket.close, WebSocket.reset):
            first, second = PAIRS[protocol](relay)
            first.send(frame(BINARY, DATA)[:-1000])
            frames = [second.receive_frame()]
            vanish(first)
            frames += frames_to_the_end(second)
            got = b"".join(payload for _, _, payload in frames)
            assert not [each for each in frames if each[1] == CLOSE], "no close is in a message"
            assert not [each for each in frames if each[0]], "and the message is not whole"
            assert DATA.startswith(got), "what arrives is what was sent"
        relay.wait_for(used=0)


@behaviour()
def a_client_that_breaks_the_protocol_is_no_normal_close_to_its_peer():
    with Relay() as relay:
        first, second = p2p_pair(relay)
        first.send(frame(BINARY, reserved=1))
        first.expect_close(1002)
        second.expect_close(1011)
        relay.wait_for(used=0)


NOT_UTF8 = "Grüße".encode() + b"\xed\xa0\x80" + b" and more"
ENDLESS = 1 << 40  # bytes that a frame claims to have


@behaviour(*PAIRS)
def text_that_is_not_UTF8_is_closed_with_1007_and_its_peer_gets_none_of_it(protocol):
    with Relay() as relay:
        for text in frame(TEXT, NOT_UTF8), frame(TEXT, NOT_UTF8[:9], length=ENDLESS):
            first, second = PAIRS[protocol](relay)
            first.send_binary(DATA).send(text)
            assert receive_bytes(second, len(DATA)) == DATA
            first.expect_close(1007)
            second.expect_close(1011, "the other side was lost")
            second.close()
        relay.wait_for(used=0)


@behaviour("p2p-copy", "localfirst")
def text_that_ceases_to_be_UTF8_ends_its_peers_connection_without_a_close_frame(protocol):
    with Relay() as relay:
        first, second = PAIRS[protocol](relay)
        for rest in b"", b"not the rest":
            first, second = PAIRS[protocol](relay)
            first.send_frame(TEXT, NOT_UTF8[:3], final=False)
            frames = [second.receive_frame()]
            first.send_frame(CONTINUATION, rest).expect_close(1007)
            frames += frames_to_the_end(second)
            assert frames == [(False, TEXT, NOT_UTF8[:3])], frames
        relay.wait_for(used=0)


@behaviour()
def a_client_that_waits_is_closed_with_1007_for_text_that_is_not_UTF8_too():
    with Relay() as relay:
        for client in (sender(relay, new_code()), introduced(relay, "alice", "document"),
                       connection(relay, "alice", "bob", "document")):
            client.send_frame(TEXT, NOT_UTF8).expect_close(1007)
        WebSocket(relay).send_frame(TEXT, NOT_UTF8).expect_close(1007)
        relay.wait_for(used=0)


@behaviour("a close", "nothing", "an end of file")
def the_close_of_a_websocket_decides_how_its_tcp_peer_ends(how):
    with Relay() as relay:
        token = new_token()
        web, plain = transit(relay, token, new_side()), relay.connect()
        plain.send(line(token, new_side())).expect(b"ok\n")
        web.expect_binary(b"ok\n")
        if how == "an end of file":
            plain.send(b"bye").finish()
            web.expect_binary(b"bye")
            web.expect_close(1000)
            assert receive_to_the_end(plain) == (b"", True)
        else:
            web.send_binary(b"bye")
            plain.expect(b"bye")
            if how == "a close":
                web.send_close()
            else:
                web.reset()
            assert receive_to_the_end(plain) == (b"", how == "a close")
        plain.close()
        relay.wait_for(used=0)


# ---- both -----------------------------------------------------------------------------


@behaviour(*PAIRS)
def a_pair_is_gone_when_both_clients_are_lost_at_once(protocol):
    with Relay() as relay:
        forwarder = relay.forwarder()
        ends = [end for _ in range(5) for end in PAIRS[protocol](relay)]
        os.kill(forwarder, signal.SIGSTOP)
        try:
            for end in ends:
                end.send_binary(bytes(100))
                end.reset()
        finally:
            os.kill(forwarder, signal.SIGCONT)
        relay.wait_for(used=0)


if __name__ == "__main__":
    run()
