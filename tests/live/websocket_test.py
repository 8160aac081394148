"""How the relay speaks WebSocket: RFC 6455 where it falls to a server that forwards, and the three
protocols on top of it, held against the real process, byte by byte."""

import base64
import hashlib
import os
import signal
import socket
import threading
import time

import msgpack
from harness import Relay, behaviour, line, new_side, new_token, resident, run, wait_until
from web_protocols import (PAIRS, connection, connection_pair, exchange, expect_introduction, hello,
                           introduced, introduction, join, leave, new_code, p2p_pair, receive_bytes,
                           receiver, sender, transit, transit_pair)
from websocket_client import (BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Closed, Response,
                              WebSocket, close_payload, frame, get, try_upgrade, upgrade_request)

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


# ---- p2p-copy -------------------------------------------------------------------------

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


# ---- @localfirst/relay ----------------------------------------------------------------


@behaviour()
def the_page_says_that_the_relay_is_up():
    with Relay() as relay:
        response = get(relay, "/")
        assert response.status == 200
        assert response.headers["content-type"].startswith("text/html")
        assert b"<" in response.body


@behaviour()
def healthz_is_200_and_503_when_the_table_is_full():
    with Relay(options=["--max-connections=2"]) as relay:
        assert get(relay, "/healthz").status == 200
        relay.wait_for(used=0)
        waiting = [receiver(relay, new_code()) for _ in range(2)]
        relay.wait_for(used=2)
        assert get(relay, "/healthz").status == 503
        assert try_upgrade(relay).status == 503
        relay.wait_for_outcomes("http", served=2, full=1)
        waiting[0].close()
        relay.wait_for(used=1)
        assert get(relay, "/healthz").status == 200


@behaviour()
def a_monitor_that_asks_for_the_head_only_gets_that():
    with Relay(options=["--max-connections=1"]) as relay:
        for path in ("/", "/healthz"):
            with relay.connect() as client:
                client.send(f"HEAD {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
                answer = client.receive(1 << 16)
            assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\n"), answer
            assert b"Content-Length: " in answer and answer.count(b"\r\n\r\n") == 1, answer
        relay.wait_for(used=0)
        with receiver(relay, new_code()):
            relay.wait_for(used=1)
            with relay.connect() as client:
                client.send(b"HEAD /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                assert client.receive(1 << 16).startswith(b"HTTP/1.1 503 ")


@behaviour("PATCH /", "TRACE /", "CONNECT host:1", "PROPFIND /", "OPTIONS *", "get /", "X-UNKNOWN http://host/")
def any_other_method_is_answered_in_http(beginning):
    with Relay() as relay:
        with relay.connect() as client:
            client.send(f"{beginning} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            assert Response(client).status == 405
        relay.wait_for_outcomes("http", errory=1)


@behaviour()
def the_preface_of_http_2_is_answered_505():
    with Relay() as relay, relay.connect() as client:
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert Response(client).status == 505


@behaviour()
def an_empty_line_before_a_request_is_ignored():
    with Relay() as relay, relay.connect() as client:
        client.send(b"\r\nGET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert Response(client).status == 200


@behaviour("POST", "PUT", "DELETE", "OPTIONS")
def another_method_is_answered_405_with_those_that_are_allowed(method):
    with Relay() as relay:
        for body in (b"", b"hello"):
            with relay.connect() as client:
                client.send(f"{method} / HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                            f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
                response = Response(client)
            assert response.status == 405, response.status
            assert response.headers["allow"] == "GET, HEAD", response.headers
        with relay.connect() as client:
            client.send(method[:2].encode() + b"\n").expect(b"bad handshake\n")
        relay.wait_for_outcomes("http", errory=2)
        relay.wait_for_outcomes("transit", errory=1)


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


# ---- magic-wormhole transit over WebSocket --------------------------------------------


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
