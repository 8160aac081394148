"""p2p-copy's hello, its refusals, and its messages, byte by byte. (Real clients: peers/p2pcopy_test.py.)"""

import os
import threading

from harness import Relay, behaviour, run
from web_protocols import PAIRS, exchange, hello, new_code, receive_bytes, receiver, sender
from websocket_client import CONTINUATION, PING, TEXT, WebSocket

WAYS = ("serve", "accept")
READY = '{"type":"ready"}'


@behaviour(*WAYS)
def the_sender_alone_is_sent_ready_whichever_client_comes_first(how):
    with Relay(how) as relay:
        for first_role, second_role in ((sender, receiver), (receiver, sender)):
            code = new_code()
            first = first_role(relay, code)
            relay.wait_for(waiting=1)
            second = second_role(relay, code, "/any/path?and=query")
            sending, receiving = (first, second) if first_role is sender else (second, first)
            sending.expect_text(READY)
            sending.send_text('{"type":"manifest"}')
            receiving.expect_text('{"type":"manifest"}')  # and nothing before it
            exchange(sending, receiving)
            sending.close()
            receiving.expect_closed()
            relay.wait_for(used=0)


REFUSED = {
    "Bad hello json": ["", "{", "hello", '{"type":"hello",}', '{"type":"hello"} more'],
    "First frame must be hello": ["{}", '{"type":"Hello"}', '{"type":null}', '{"type":["hello"]}'],
    "Bad hello": [
        '{"type":"hello"}',
        '{"type":"hello","role":"sender"}',
        '{"type":"hello","code_hash_hex":"","role":"sender"}',
        '{"type":"hello","code_hash_hex":"ab"}',
        '{"type":"hello","code_hash_hex":"ab","role":"Sender"}',
        '{"type":"hello","code_hash_hex":"ab","role":"relay"}',
        '{"type":"hello","code_hash_hex":"ab","role":null}',
    ],
}


@behaviour(*REFUSED)
def a_bad_hello_is_closed_with_1002(reason):
    with Relay() as relay:
        for text in REFUSED[reason]:
            client = WebSocket(relay).send_text(text)
            try:
                client.expect_close(1002, reason)
            except AssertionError as error:
                raise AssertionError(f"{text}: {error}") from None
            client.expect_end()


def hello_of(size, code, role):
    return hello(code, role, padding="x" * (size - len(hello(code, role, padding=""))))


@behaviour()
def a_hello_of_4096_bytes_is_read_and_a_longer_one_refused():
    with Relay() as relay:
        code = new_code()
        first = WebSocket(relay).send_text(hello_of(4096, code, "sender"))
        second = WebSocket(relay).send_text(hello_of(4096, code, "receiver"))
        first.expect_text(READY)
        exchange(first, second)
        for size in (4097, 8192):
            WebSocket(relay).send_text(hello_of(size, code, "sender")).expect_close(1002, "Bad hello")
        WebSocket(relay).send_text(hello_of(8193, code, "sender")).expect_close(1009)
        relay.wait_for(waiting=0)


@behaviour()
def a_hello_that_is_not_text_is_told_so():
    """It may as well be a client of transit's that said no line, and is told what that expects."""
    with Relay() as relay:
        for role in ("sender", "receiver"):
            client = WebSocket(relay).send_binary(hello(new_code(), role).encode())
            client.expect_binary(b"bad handshake\n")
            client.expect_close(1002, "First frame must be hello text")
            client.expect_end()
        relay.wait_for(used=0)


@behaviour()
def a_hello_is_read_as_json():
    with Relay() as relay:
        for text in ('{"role":"sender","code_hash_hex":"CODE","type":"hello"}',
                     ' {\n"type" : "hello", "role":"\\u0073ender", "code_hash_hex":"CODE"} ',
                     '{"type":"hello","x":{"role":[1,{}]},"code_hash_hex":"CODE","role":"sender"}'):
            code = new_code()
            first = WebSocket(relay).send_text(text.replace("CODE", code))
            second = receiver(relay, code)
            first.expect_text(READY)
            exchange(first, second)


@behaviour()
def a_hello_may_come_in_fragments_with_pings_between():
    with Relay() as relay:
        code = new_code()
        text = hello(code, "sender").encode()
        first = WebSocket(relay)
        first.send_frame(TEXT, text[:10], final=False).send_frame(CONTINUATION, text[10:20], final=False)
        first.send_frame(PING, b"?").expect_pong(b"?")
        first.send_frame(CONTINUATION, text[20:])
        with receiver(relay, code):
            first.expect_text(READY)


@behaviour("sender", "receiver")
def two_of_one_role_are_both_closed_with_1013_and_the_code_is_free(role):
    with Relay() as relay:
        code = new_code()
        both = [WebSocket(relay).send_text(hello(code, role)) for _ in range(2)]
        for client in both:
            client.expect_close(1013, "Duplicate role for code")
            client.expect_end()
            client.close()
        first, second = sender(relay, code), receiver(relay, code)
        first.expect_text(READY)
        exchange(first, second)


@behaviour()
def a_third_waits_anew_under_the_code_of_a_pair():
    with Relay() as relay:
        code = new_code()
        first, second = sender(relay, code), receiver(relay, code)
        first.expect_text(READY)
        third = receiver(relay, code).settle()
        exchange(first, second)
        fourth = sender(relay, code).expect_text(READY)
        exchange(third, fourth)
        exchange(first, second)


@behaviour()
def a_client_that_left_before_the_match_is_not_met():
    with Relay() as relay:
        code = new_code()
        gone = receiver(relay, code).settle()
        gone.close_politely()
        relay.wait_for(used=0)
        first, second = sender(relay, code), receiver(relay, code)
        first.expect_text(READY)
        exchange(first, second)


@behaviour("p2p-copy", "localfirst")
def text_stays_text_and_binary_stays_binary(protocol):
    with Relay() as relay:
        first, second = PAIRS[protocol](relay)
        for one, other in ((first, second), (second, first)):
            one.send_text("Grüße 🐟").send_binary(b"\x00\xff").send_text("")
            other.expect_text("Grüße 🐟").expect_binary(b"\x00\xff").expect_text("")


@behaviour("p2p-copy", "localfirst", "transit")
def messages_that_were_sent_before_a_close_are_delivered_and_then_a_normal_close(protocol):
    with Relay() as relay:
        first, second = PAIRS[protocol](relay)
        data = os.urandom(16 << 20)

        def send():
            for at in range(0, len(data), 1 << 20):
                first.send_binary(data[at:at + (1 << 20)])
            first.close_politely()

        thread = threading.Thread(target=send)
        thread.start()
        assert receive_bytes(second, len(data)) == data
        second.expect_close(1000)
        thread.join()


if __name__ == "__main__":
    run()
