"""How the relay speaks WebSocket: RFC 6455 where it concerns a server that forwards, held against the
real process, byte by byte."""

import base64
import hashlib
import os
import signal
import socket
import threading

from harness import Relay, behaviour, new_token, resident, run, wait_until
from web_protocols import (PAIRS, connection, exchange, hello, introduced, new_code, p2p_pair,
                           receive_bytes, receiver, sender, transit)
from websocket_client import (BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Closed, WebSocket,
                              close_payload, frame, try_upgrade, upgrade_request)

WAYS = ("serve", "accept")
SAMPLE_KEY, SAMPLE_ACCEPT = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, 1.3
CHUNK = (1 << 20) + 40  # what p2p-copy sends


# ---- RFC 6455, 4.2: the opening handshake ---------------------------------------------


@behaviour(*WAYS)
def the_upgrade_proves_the_key(how):
    with Relay(how) as relay:
        response = try_upgrade(relay, key=SAMPLE_KEY)
        assert response.status == 101
        assert response.headers["sec-websocket-accept"] == SAMPLE_ACCEPT
        assert response.headers["upgrade"].lower() == "websocket"
        assert response.headers["connection"].lower() == "upgrade"


@behaviour()
def header_names_and_tokens_are_read_in_any_case_and_as_lists():
    with Relay() as relay:
        for upgrade, tokens in (("WebSocket", "keep-alive, Upgrade"), ("WEBSOCKET", "UPGRADE"),
                                ("h2c, websocket", "upgrade ,close"), ("websocket", "\tUpgrade ")):
            response = try_upgrade(relay, Upgrade=upgrade, Connection=tokens)
            assert response.status == 101, f"{upgrade!r}, {tokens!r}: {response.status}"
        head = upgrade_request().replace(b"Upgrade: ", b"uPGRADE:").replace(b"Sec-Web", b"sec-wEB")
        with relay.connect() as client:
            client.send(head).expect(b"HTTP/1.1 101 ")


@behaviour()
def a_token_that_only_resembles_upgrade_is_refused():
    with Relay() as relay:
        assert try_upgrade(relay, Connection="not-Upgrade").status != 101
        assert try_upgrade(relay, Upgrade="websocketx").status != 101


@behaviour()
def another_version_is_answered_426_with_the_version_that_is_spoken():
    with Relay() as relay:
        for version in ("8", "0", "14"):
            response = try_upgrade(relay, Sec_WebSocket_Version=version)
            assert response.status == 426, response.status
            assert response.headers["sec-websocket-version"] == "13"


@behaviour()
def an_upgrade_without_a_proper_key_is_refused():
    with Relay() as relay:
        short = base64.b64encode(bytes(15)).decode()
        for key in (None, "", "no base 64 at all", short):
            response = try_upgrade(relay, Sec_WebSocket_Key=key)
            assert 400 <= response.status < 500, f"{key!r}: {response.status}"


@behaviour()
def http_1_0_is_not_upgraded():
    with Relay() as relay, relay.connect() as client:
        client.send(upgrade_request().replace(b"HTTP/1.1", b"HTTP/1.0"))
        answer = client.receive(12)  # an Upgrade in HTTP/1.0 is ignored (RFC 9110, 7.8)
        assert answer.startswith(b"HTTP/1.1 ") and answer != b"HTTP/1.1 101", answer


@behaviour()
def no_extension_is_accepted_and_a_subprotocol_only_of_localfirst():
    with Relay() as relay:
        for path, taken in ("/", None), ("/introduction/alice", "chat"), ("/connection/a/b/c", "chat"):
            response = try_upgrade(
                relay, path, Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits",
                Sec_WebSocket_Protocol="chat, superchat")
            assert response.status == 101
            assert "sec-websocket-extensions" not in response.headers
            assert response.headers.get("sec-websocket-protocol") == taken, response.headers


@behaviour()
def the_origin_is_not_judged():
    with Relay() as relay:
        assert try_upgrade(relay, Origin="https://elsewhere.example").status == 101
        assert try_upgrade(relay, Origin="null").status == 101


@behaviour()
def a_head_of_up_to_32_KiB_is_read_and_a_longer_one_answered_431():
    with Relay() as relay:
        room = (1 << 15) - len(upgrade_request(Cookie=""))
        assert try_upgrade(relay, Cookie="x" * room).status == 101
        assert try_upgrade(relay, Cookie="x" * (room + 1)).status == 431


@behaviour(*WAYS)
def a_handshake_and_a_hello_that_come_one_byte_at_a_time_are_understood(how):
    with Relay(how) as relay:
        code = new_code()
        with relay.connect() as slow:
            slow.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in upgrade_request() + frame(TEXT, hello(code, "sender").encode()):
                slow.send(bytes([byte]))
            slow.expect(b"HTTP/1.1 101 ")
            with receiver(relay, code) as other:
                answer = b""
                while not answer.endswith(b'\x81\x10{"type":"ready"}'):
                    answer += slow.receive(1)
                slow.send(frame(BINARY, b"through"))
                other.expect_binary(b"through")


@behaviour(*WAYS)
def frames_in_the_segment_of_the_handshake_are_not_lost(how):
    with Relay(how) as relay, relay.connect() as eager:
        eager.send(upgrade_request("/connection/alice/bob/doc")
                   + frame(BINARY, b"first") + frame(TEXT, b"second") + frame(PING, b"?"))
        with connection(relay, "bob", "alice", "doc") as bob:
            bob.expect_binary(b"first").expect_text("second")


# ---- RFC 6455, 5: framing -------------------------------------------------------------

BROKEN = {
    "an unmasked frame": frame(BINARY, b"bare", masked=False),
    "a reserved bit": frame(BINARY, b"x", reserved=4),
    "another reserved bit": frame(BINARY, b"x", reserved=1),
    "a reserved data opcode": frame(0x3, b"x"),
    "a reserved control opcode": frame(0xB),
    "a fragmented ping": frame(PING, b"x", final=False),
    "a ping of 126 bytes": frame(PING, bytes(126)),
    "a continuation of nothing": frame(CONTINUATION, b"x"),
    "a message within a message": frame(BINARY, b"x", final=False) + frame(BINARY, b"y"),
    "a length with its highest bit set": frame(BINARY, length=(1 << 64) - 1),
    "a close of one byte": frame(CLOSE, b"\x03"),
    "a close code below 1000": frame(CLOSE, close_payload(999)),
    "a close code that is never sent": frame(CLOSE, close_payload(1005)),
    "a close code that nobody defined": frame(CLOSE, close_payload(1016)),
}


def expect_the_end(client):
    """The end, after such fragments of a broken message as were in order and have been passed on."""
    try:
        while client.receive_frame()[1] != CLOSE:
            continue
    except Closed:
        pass


@behaviour(*BROKEN)
def a_protocol_error_in_a_pair_is_closed_with_1002_and_ends_the_pair_only(what):
    with Relay() as relay:
        bystanders = p2p_pair(relay)
        for pair in PAIRS.values():
            first, second = pair(relay)
            first.send(BROKEN[what])
            first.expect_close(1002)
            expect_the_end(second)
        exchange(*bystanders)


@behaviour(*BROKEN)
def a_protocol_error_of_a_client_that_waits_is_closed_with_1002(what):
    with Relay() as relay:
        clients = [receiver(relay, new_code()), introduced(relay, "alice")]
        if what != "a message within a message":  # its first frame is no error, but impatient
            clients.append(transit(relay, new_token()))
        for client in clients:
            client.settle().send(BROKEN[what])
            client.expect_close(1002)


@behaviour()
def a_close_is_answered_with_its_code_also_while_waiting():
    with Relay() as relay:
        paired, _peer = p2p_pair(relay)  # its peer stays: were it gone, that would be the end
        for client in (receiver(relay, new_code()), transit(relay, new_token()),
                       introduced(relay, "alice"), connection(relay, "alice", "bob", "doc"), paired):
            client.send_close(1000, b"done").expect_close(1000)
            client.expect_end()
        with receiver(relay, new_code()) as client:
            client.send_frame(CLOSE)  # without a code, which is allowed
            client.expect_close()


@behaviour()
def pings_are_answered_at_any_time_and_never_passed_on():
    with Relay() as relay:
        for client in (WebSocket(relay), receiver(relay, new_code()), transit(relay, new_token()),
                       introduced(relay, "alice"), connection(relay, "alice", "bob", "doc")):
            for payload in (b"", b"are you there?", os.urandom(125)):
                client.send_frame(PING, payload).expect_pong(payload)
        for pair in PAIRS.values():
            first, second = pair(relay)
            second.send_frame(PING, b"?").expect_pong(b"?")
            second.send_frame(PONG, b"nobody asked")
            exchange(first, second)


@behaviour()
def a_ping_between_fragments_is_answered_and_the_message_arrives_whole():
    with Relay() as relay:
        for pair in PAIRS.values():
            first, second = pair(relay)
            first.send_frame(BINARY, b"one ", final=False)
            first.send_frame(PING, b"?").expect_pong(b"?")
            first.send_frame(CONTINUATION, b"two ", final=False)
            first.send_frame(CONTINUATION, b"three")
            assert receive_bytes(second, 13) == b"one two three"


@behaviour(*PAIRS)
def ten_thousand_fragments_of_one_byte_are_one_message(protocol):
    with Relay() as relay:
        first, second = PAIRS[protocol](relay)
        data = os.urandom(10_000)
        parts = [frame(CONTINUATION, data[i:i + 1], final=False) for i in range(1, len(data))]
        first.send(frame(BINARY, data[:1], final=False) + b"".join(parts) + frame(CONTINUATION))
        assert receive_bytes(second, len(data)) == data
        exchange(first, second)


@behaviour(*PAIRS)
def messages_of_every_length_form_arrive(protocol):
    with Relay() as relay:
        first, second = PAIRS[protocol](relay)
        for size in (1, 125, 126, 65535, 65536, CHUNK, 1 << 21):
            data = os.urandom(size)
            first.send_binary(data)
            assert receive_bytes(second, size) == data, f"{size} bytes differ"


@behaviour("p2p-copy", "localfirst")
def empty_messages_and_empty_fragments_arrive(protocol):
    with Relay() as relay:
        first, second = PAIRS[protocol](relay)
        first.send_binary(b"").send_text("")
        second.expect_binary(b"").expect_text("")
        first.send_frame(TEXT, b"", final=False).send_frame(CONTINUATION, b"", final=False)
        first.send_frame(CONTINUATION, b"after nothing")
        second.expect_text("after nothing")


@behaviour(*PAIRS)
def a_pair_goes_on_when_every_byte_comes_alone(protocol):
    with Relay() as relay:
        first, second = PAIRS[protocol](relay)
        for byte in (frame(BINARY, b"hello") + frame(BINARY, b" wor", final=False) + frame(PING)
                     + frame(CONTINUATION, b"ld") + frame(BINARY, bytes(range(200)))):
            first.send(bytes([byte]))
        assert receive_bytes(second, 211) == b"hello world" + bytes(range(200))
        first.expect_pong()


@behaviour(*PAIRS)
def a_message_of_a_claimed_8_EiB_is_passed_on_as_it_comes_in_bounded_memory(protocol):
    with Relay() as relay:
        first, second = PAIRS[protocol](relay)
        before = resident(relay.forwarder())
        block, count = os.urandom(1 << 20), 64
        sent, received = hashlib.sha256(), hashlib.sha256()

        def send():
            header = frame(BINARY, length=(1 << 63) - 1)[:10] + bytes(4)  # a mask that changes nothing
            first.send(header)
            for _ in range(count):
                sent.update(block)
                first.send(block)

        thread = threading.Thread(target=send)
        thread.start()
        left = count << 20
        while left > 0:
            final, opcode, payload = second.receive_frame()
            assert opcode in (BINARY, CONTINUATION) and (protocol == "transit" or not final)
            received.update(payload)
            left -= len(payload)
        thread.join()
        assert left == 0 and sent.digest() == received.digest(), "the bytes differ"
        grown = resident(relay.forwarder()) - before
        assert grown < 8 << 20, f"the forwarder has grown by {grown} bytes"
        first.close()
        second.expect_closed()


@behaviour()
def a_hello_of_a_claimed_8_EiB_is_refused():
    with Relay() as relay:
        client = WebSocket(relay)
        client.send(frame(TEXT, length=(1 << 63) - 1)[:10] + bytes(4) + b'{"type"')
        client.expect_close()
        exchange(*p2p_pair(relay))


@behaviour(*PAIRS)
def a_reader_that_does_not_read_holds_up_its_own_pair_only(protocol):
    with Relay() as relay:
        first, second = PAIRS[protocol](relay)
        before = resident(relay.forwarder())
        first.socket.settimeout(1)
        block = os.urandom(1 << 20)
        count, stuck = 0, False
        while not stuck and count < 256:
            try:
                first.send_binary(block)
                count += 1
            except TimeoutError:
                stuck = True
        assert stuck, f"{count} MiB were taken for a client that reads nothing"
        grown = resident(relay.forwarder()) - before
        assert grown < 8 << 20, f"the forwarder has grown by {grown} bytes"
        exchange(*PAIRS[protocol](relay))
        assert receive_bytes(second, count << 20) == block * count


# ---- and all of them together ---------------------------------------------------------


@behaviour()
def a_pair_is_not_disturbed_by_what_happens_to_others():
    with Relay() as relay:
        steady = [pair(relay) for pair in PAIRS.values()]
        for _ in range(20):
            for pair in PAIRS.values():
                first, second = pair(relay)
                first.send(frame(BINARY, bytes(1000))[:500])
                first.reset()
                second.close()
            WebSocket(relay).send_text("no hello").expect_close(1002)
            for first, second in steady:
                exchange(first, second)
        for first, second in steady:
            first.close()
            second.close()
        relay.wait_for(used=0)


@behaviour()
def an_idle_relay_is_left_clean():
    with Relay() as relay:
        clients = [introduced(relay, f"peer-{number}", "doc") for number in range(20)]
        clients += [client for pair in PAIRS.values() for client in pair(relay)]
        for client in clients:
            client.reset()
        relay.wait_for(used=0)
        count = len(os.listdir(f"/proc/{relay.forwarder()}/fd"))
        for _ in range(3):
            for client in [end for pair in PAIRS.values() for end in pair(relay)]:
                client.reset()
        relay.wait_for(used=0)
        wait_until(lambda: len(os.listdir(f"/proc/{relay.forwarder()}/fd")) <= count,
                   "the forwarder to close what it held")


@behaviour()
def clients_that_are_connected_when_the_relay_stops_are_closed_with_1001():
    with Relay() as relay:
        clients = [introduced(relay, "alice"), sender(relay, new_code())]
        clients += [client for pair in PAIRS.values() for client in pair(relay)]
        relay.wait_for(used=len(clients))
        forwarder = relay.forwarder()
        os.kill(forwarder, signal.SIGTERM)
        for client in clients:
            client.expect_close(1001)


if __name__ == "__main__":
    run()
