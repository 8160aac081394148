"""magic-wormhole's transit over WebSocket, and with clients over TCP."""

import os
import threading

from harness import Relay, behaviour, line, new_side, new_token, run
from web_protocols import exchange, receive_bytes, transit, transit_pair
from websocket_client import BINARY, CONTINUATION, Closed, WebSocket, frame, upgrade_request

WAYS = ("serve", "accept")


@behaviour(*WAYS)
def two_websocket_clients_meet_with_and_without_sides(how):
    with Relay(how) as relay:
        exchange(*transit_pair(relay))
        token = new_token()
        first = transit(relay, token)
        second = transit(relay, token, new_side(), path="/v1/any")
        first.expect_binary(b"ok\n")
        second.expect_binary(b"ok\n")
        exchange(first, second)


@behaviour()
def the_line_may_lack_its_line_feed_and_come_in_fragments():
    with Relay() as relay:
        token = new_token()
        first = WebSocket(relay).send_binary(line(token)[:-1])
        second = WebSocket(relay)
        second.send_frame(BINARY, line(token)[:9], final=False).send_frame(CONTINUATION, line(token)[9:])
        first.expect_binary(b"ok\n")
        second.expect_binary(b"ok\n")
        exchange(first, second)


@behaviour(*WAYS)
def a_tcp_client_and_a_websocket_client_meet(how):
    with Relay(how) as relay:
        for tcp_first in (True, False):
            token = new_token()
            tcp = relay.connect()
            if tcp_first:
                tcp.send(line(token, new_side()))
                relay.wait_for(waiting=1)
            web = transit(relay, token, new_side())
            if not tcp_first:
                relay.wait_for(waiting=1)
                tcp.send(line(token, new_side()))
            tcp.expect(b"ok\n")
            web.expect_binary(b"ok\n")
            data = os.urandom(300_000)
            web.send_binary(data[:1000]).send_binary(data[1000:])
            tcp.expect(data)
            tcp.send(data)
            assert receive_bytes(web, len(data)) == data
            tcp.close()
            web.expect_close(1000)
            relay.wait_for(used=0)


@behaviour()
def the_close_of_a_websocket_client_ends_its_tcp_peer_after_delivery():
    with Relay() as relay:
        token = new_token()
        tcp, web = relay.connect().send(line(token)), transit(relay, token)
        web.expect_binary(b"ok\n")
        data = os.urandom(4 << 20)
        thread = threading.Thread(target=lambda: web.send_binary(data).send_close())
        thread.start()
        tcp.expect(b"ok\n").expect(data).expect_end()
        thread.join()


@behaviour()
def the_spare_of_a_side_is_closed():
    with Relay() as relay:
        token, side = new_token(), new_side()
        same = [transit(relay, token, side).settle() for _ in range(2)]
        other = transit(relay, token, new_side()).expect_binary(b"ok\n")
        answers = []
        for client in same:
            try:
                answers.append(client.receive_message())
            except Closed:
                answers.append(None)
        assert sorted(answers, key=str) == [(BINARY, b"ok\n"), None], answers
        other.close()


@behaviour()
def a_message_before_the_match_is_impatient():
    with Relay() as relay:
        client = transit(relay, new_token()).settle()
        client.send_binary(b"now")
        client.expect_binary(b"impatient\n")
        client.expect_close()
        with relay.connect() as eager:
            eager.send(upgrade_request() + frame(BINARY, line(new_token())) + frame(BINARY, b"now"))
            answer = b""
            while not answer.endswith(b"impatient\n"):
                byte = eager.receive(1)
                assert byte, f"no impatient in {answer!r}"
                answer += byte


BAD_LINES = [b"", b"\n", b"please relay", b"please relay \n", b"please relay " + b"a" * 63 + b"\n",
             b"please relay " + b"a" * 64 + b" for side 123\n", b"Please relay " + b"a" * 64 + b"\n",
             b"please relay " + b"a" * 64 + b"\nmore", b"please relay " + b"a" * 64 + b"\r\n",
             b"\0" * 64, b"x" * 1024, b"x" * 5000]


@behaviour()
def a_bad_line_is_a_bad_handshake():
    with Relay() as relay:
        for text in BAD_LINES:
            client = WebSocket(relay).send_binary(text)
            try:
                client.expect_binary(b"bad handshake\n")
                client.expect_close()
            except (AssertionError, Closed) as error:
                raise AssertionError(f"{text[:100]!r}: {error}") from None


@behaviour()
def a_text_message_is_closed_with_1003():
    with Relay() as relay:
        waiting = transit(relay, new_token()).settle()
        waiting.send_text("text")
        waiting.expect_close(1003)
        first, second = transit_pair(relay)
        first.send_text("text")
        first.expect_close(1003)
        second.expect_closed()


if __name__ == "__main__":
    run()
