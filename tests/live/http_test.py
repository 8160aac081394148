"""HTTP that is no WebSocket: the page, the health, and requests that are refused."""

from harness import Relay, behaviour, run
from web_protocols import new_code, receiver
from websocket_client import Response, get, try_upgrade


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


if __name__ == "__main__":
    run()
