"""Behind a proxy: PROXY headers by hand, and the sample configurations with the real HAProxy and
nginx."""

import contextlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

from harness import (PATIENCE, RELAY, TOP, Client, Relay, Skip, behaviour, connect_to, exchange,
                     free_port, line, new_side, new_token, run, transfer, wait_until)
from offset_client import Connection, Identity
from offset_relay import OffsetRelay
from offset_relay import exchange as exchange_through_tunnel
from tls_client import FIRST, Secure
from web_protocols import (PAIRS, expect_introduction, introduced, new_code, receive_bytes, receiver,
                           sender)
from web_protocols import exchange as exchange_messages
from websocket_client import get, try_upgrade

WAYS = Relay.MODES
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
TRUST = ["--trusted-proxy=127.0.0.1"]


def text_header(source, family="TCP4"):
    return f"PROXY {family} {source} {'::1' if ':' in source else '127.0.0.1'} 40000 4001\r\n".encode()


def binary_header(source, extra=b""):
    kind = socket.AF_INET6 if ":" in source else socket.AF_INET
    addresses = socket.inet_pton(kind, source) + bytes(16 if ":" in source else 4)
    rest = addresses + struct.pack("!HH", 40000, 4001) + extra
    return SIGNATURE + bytes([0x21, 0x21 if ":" in source else 0x11]) + \
        struct.pack("!H", len(rest)) + rest


def header(version, source):
    family = "TCP6" if ":" in source else "TCP4"
    return text_header(source, family) if version == 1 else binary_header(source)


LOCAL = {1: b"PROXY UNKNOWN\r\n", 2: SIGNATURE + b"\x20\0\0\0"}


def is_admitted(client):
    """Whether the relay lets it wait for a peer, rather than close it."""
    try:
        client.send(line(new_token(), new_side()))
        client.expect_silence(0.2)
        return True
    except (AssertionError, BrokenPipeError, ConnectionResetError):
        return False


# ---- headers by hand ------------------------------------------------------------------


@behaviour(*WAYS)
def a_trusted_proxys_clients_meet(how):
    with Relay(how, options=TRUST) as relay:
        for version in (1, 2):
            token = new_token()
            first, second = connect_to(relay.port), connect_to(relay.port)
            first.send(header(version, "192.0.2.1") + line(token, new_side()))
            second.send(header(version, "2001:db8::1") + line(token, new_side()))
            exchange(first.expect(b"ok\n"), second.expect(b"ok\n"))
            first.close()
            second.close()
        relay.wait_for_outcomes(happy=2, errory=0)


def transit_pair_in_TLS(relay, *headers):
    token = new_token()
    pair = [Secure(relay, preface=text).send(line(token, new_side())) for text in headers]
    exchange(*(client.expect(b"ok\n") for client in pair))
    return pair


def p2p_pair_behind(relay, *headers, **how):
    code = new_code()
    pair = [role(relay, code, preface=text, **how) for role, text in zip((sender, receiver), headers)]
    pair[0].expect_text('{"type":"ready"}')
    exchange_messages(*pair)
    return pair


def p2p_pair_in_TLS(relay, *headers):
    return p2p_pair_behind(relay, *headers, context=FIRST.context())


def offset_node(relay, text, identity):
    class Behind(Connection):
        """A node's connection through the proxy."""

        def dial(self, address):
            connection = super().dial(address)
            connection.sendall(text)
            return connection

    return relay.open(identity, kind=Behind)


def tunnel_behind(relay, *headers):
    node, other = Identity(), Identity()
    listener = offset_node(relay, headers[0], node).listen()
    relay.wait_for(waiting=1)
    connector = offset_node(relay, headers[1], other).connect_to(node.key)
    assert listener.incoming() == other.key
    acceptor = offset_node(relay, header(1, "198.51.100.1"), node).accept(other.key)
    exchange_through_tunnel(connector, acceptor)
    return listener, connector, acceptor


BEHIND = {"transit in TLS": transit_pair_in_TLS, "p2p-copy": p2p_pair_behind,
          "p2p-copy in TLS": p2p_pair_in_TLS, "Offset": tunnel_behind}


@behaviour(*BEHIND)
def a_header_may_come_before_any_protocol_and_its_address_counts(what):
    sources = ("192.0.2.1", "2001:db8::1")
    for version in (1, 2):
        with OffsetRelay(options=[*TRUST, *FIRST.options(), "--per-source=1"]) as relay:
            kept = BEHIND[what](relay, *(header(version, source) for source in sources))
            for source in sources:
                assert not is_admitted(connect_to(relay.port).send(header(version, source))), source
            assert is_admitted(connect_to(relay.port).send(header(version, "192.0.2.2")))
            for client in kept:
                client.close()


@behaviour(1, 2)
def a_header_that_comes_byte_by_byte_is_understood(version):
    with Relay(options=TRUST) as relay, connect_to(relay.port) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in header(version, "192.0.2.1") + line(new_token(), new_side()):
            client.send(bytes([byte]))
        relay.wait_for(waiting=1)


@behaviour(1, 2)
def the_address_in_the_header_is_the_one_that_counts(version):
    with Relay(options=[*TRUST, "--per-source=2"]) as relay:
        kept = []

        def admitted(source):
            kept.append(connect_to(relay.port).send(header(version, source)))
            return is_admitted(kept[-1])

        assert admitted("192.0.2.1") and admitted("192.0.2.1")
        assert not admitted("192.0.2.1")
        assert not admitted("::ffff:192.0.2.1"), "the same in IPv6 clothes"
        assert admitted("192.0.2.2")
        assert admitted("2001:db8::1") and admitted("2001:db8::ffff")
        assert not admitted("2001:db8::2"), "the same /64"
        assert admitted("2001:db8:0:1::1")
        relay.wait_for(waiting=6)
        for client in kept:
            client.close()
        relay.wait_for(used=0)
        kept.clear()
        assert admitted("192.0.2.1"), "and is given back"


@behaviour(1, 2)
def connections_that_the_proxy_makes_for_itself_count_as_its_own(version):
    with Relay(options=[*TRUST, "--per-source=1"]) as relay:
        first = connect_to(relay.port).send(LOCAL[version])
        assert is_admitted(first)
        assert not is_admitted(connect_to(relay.port).send(LOCAL[version]))
        assert is_admitted(connect_to(relay.port).send(header(version, "192.0.2.1")))


@behaviour(1, 2)
def a_health_check_leaves_no_trace(version):
    reading, writing = os.pipe()
    with Relay(options=[*TRUST, f"--log-fd={writing}"], pass_fds=(writing,)) as relay:
        os.close(writing)
        lines = relay.log()
        for _ in range(5):
            with connect_to(relay.port) as client:
                client.send(LOCAL[version])
                client.finish()
                client.expect_end()
        assert relay.log() == lines, relay.log()
        with connect_to(relay.port) as client:
            client.send(header(version, "192.0.2.1") + b"nonsense\n")
            client.receive(100)
        relay.wait_for(used=0)
        relay.wait_for_outcomes(errory=1)
        assert sum(sum(counts.values()) for counts in relay.status()["protocols"].values()) == 1
    with open(reading, "rb") as records:
        assert records.read().count(b"\n") == 1, "of the one that spoke"


@behaviour("none", "malformed", "cut short", "too long", "TLS", "behind a blank")
def a_trusted_proxy_without_a_good_header_is_refused(what):
    spoken = {
        "none": line(new_token()),
        "malformed": b"PROXY TCP4 192.0.2.1 127.0.0.1 1 x\r\n",
        "cut short": b"PROXY TCP4 192.0.2.1",
        "too long": b"PROXY UNKNOWN " + b"x" * 200 + b"\r\n",
        "TLS": b"\x16\x03\x01\0\5hello",
        "behind a blank": b" PROXY UNKNOWN\r\n",
    }[what]
    with Relay(options=TRUST) as relay:
        with connect_to(relay.port) as client:
            client.send(spoken)
            client.finish()
            client.expect_end()
        relay.wait_for(used=0)
        said = relay.log().count("PROXY header")
        assert said == (0 if what == "cut short" else 1), relay.log()
        assert relay.log().count("refused") == said, relay.log()
        assert "192.0.2.1" not in relay.log()


@behaviour()
def a_header_that_does_not_come_ends_at_the_deadline():
    with Relay(options=[*TRUST, "--handshake-timeout=1"]) as relay:
        for spoken in (b"", b"PROXY ", SIGNATURE, SIGNATURE + b"\x21\x11\0\x0c1234"):
            with connect_to(relay.port) as client:
                client.send(spoken)
                client.expect_end()


@behaviour(1, 2)
def a_header_from_any_other_client_is_refused(version):
    for options in ([], ["--trusted-proxy=192.0.2.0/24", "--trusted-proxy=unix"]):
        with Relay(options=options) as relay:
            with connect_to(relay.port) as client:
                client.send(header(version, "192.0.2.1") + line(new_token()))
                # The second version begins as a request does that has empty lines in front.
                client.expect(b"bad handshake\n" if version == 1 else b"HTTP/1.1 400 ")
            assert is_admitted(connect_to(relay.port))


@behaviour()
def proxies_and_others_share_the_port():
    with Relay(options=["--trusted-proxy=127.0.0.2", "--trusted-proxy=127.0.1.0/24"]) as relay:
        for source in ("127.0.0.2", "127.0.1.77"):
            token = new_token()
            behind, direct = connect_to(relay.port, source), connect_to(relay.port, "127.0.0.3")
            behind.send(header(2, "192.0.2.1") + line(token, new_side()))
            direct.send(line(token, new_side()))
            exchange(behind.expect(b"ok\n"), direct.expect(b"ok\n"))


@behaviour()
def a_unix_socket_is_trusted_by_that_name():
    with tempfile.TemporaryDirectory(prefix="relay-proxy-") as directory:
        os.chmod(directory, 0o755)
        path = os.path.join(directory, "sock")
        with Relay(options=["--trusted-proxy=unix", "--per-source=1"],
                   address=f"unix:{path}") as relay:
            wait_until(lambda: "listening on" in relay.log(), "the socket")
            first, second = Client(path), Client(path)
            assert is_admitted(first.send(header(2, "192.0.2.1")))
            assert not is_admitted(Client(path).send(header(1, "192.0.2.1")))
            assert is_admitted(second.send(header(1, "192.0.2.2")))
            assert not is_admitted(Client(path)), "without a header"
            relay.wait_for(waiting=2)


@behaviour("10.0.0.1/8", "localhost", "10.0.0.0/33", "")
def a_value_that_is_no_network_is_refused_at_the_start(text):
    result = subprocess.run([RELAY, "serve", f"--trusted-proxy={text}"], stderr=subprocess.PIPE,
                            check=False, timeout=PATIENCE)
    said = result.stderr.decode()
    assert result.returncode == 2 and said.count("\n") == 1 and "--trusted-proxy" in said, said


# ---- the samples ----------------------------------------------------------------------


def sample(name):
    with open(os.path.join(TOP, "samples", name), encoding="ascii") as file:
        return file.read()


@behaviour("haproxy.cfg", "nginx-stream.conf", "nginx-web.conf")
def the_manual_shows_the_sample_that_is_tested(name):
    with open(os.path.join(TOP, "man", "relay-proxies.7"), encoding="ascii") as file:
        blocks = re.findall(r"\.Bd [^\n]*\n(.*?)\.Ed\n", file.read(), re.DOTALL)
    assert sample(name) in blocks


def replace(text, old, new):
    assert text.count(old) >= 1, f"the sample has no {old!r} any more"
    return text.replace(old, new)


class Proxy:
    """A proxy that runs with a sample configuration, for other ports."""

    def __init__(self, program, name, changes):
        if shutil.which(program) is None:
            raise Skip(f"{program} is not installed")
        self.directory = tempfile.mkdtemp(prefix="relay-proxy-")
        self.port = free_port()
        text = sample(name)
        for old, new in changes(self.port).items():
            text = replace(text, old, new)
        self.config = os.path.join(self.directory, name)
        with open(self.config, "w", encoding="ascii") as file:
            file.write(text)
        log = open(os.path.join(self.directory, "log"), "wb")  # pylint: disable=consider-using-with
        self.process = subprocess.Popen(
            self.command(program), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        wait_until(self._answers, f"{program} to listen: {self.log()}")

    def command(self, program):
        if program == "haproxy":
            return [program, "-db", "-f", self.config]
        directives = f"daemon off; pid {self.directory}/pid;"
        return [program, "-p", self.directory, "-e", "stderr", "-c", self.config, "-g", directives]

    def log(self):
        with open(os.path.join(self.directory, "log"), encoding="utf-8", errors="replace") as file:
            return file.read()

    def _answers(self):
        assert self.process.poll() is None, self.log()
        with open("/proc/net/tcp", encoding="ascii") as file:
            return f":{self.port:04X} 00000000:0000 0A" in file.read()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)
        shutil.rmtree(self.directory, ignore_errors=True)


def in_front(kind, relay):
    if kind.startswith("haproxy"):
        return Proxy("haproxy", "haproxy.cfg", lambda port: {
            "bind :443": f"bind 127.0.0.1:{port}",
            "127.0.0.1:4001 send": f"127.0.0.1:{relay.port} send",
            "inter 10s": "inter 100ms",
            "send-proxy-v2": "send-proxy-v2" if kind == "haproxy v2" else "send-proxy"})
    return Proxy("nginx", "nginx-stream.conf", lambda port: {
        "listen 443": f"listen 127.0.0.1:{port}",
        "proxy_pass 127.0.0.1:4001": f"proxy_pass 127.0.0.1:{relay.port}",
        "worker_connections 20000": "worker_connections 500"})


PROXIES = ("haproxy v2", "haproxy v1", "nginx")


@behaviour(*PROXIES)
def clients_meet_through_a_real_proxy(kind):
    with Relay(options=TRUST) as relay, in_front(kind, relay) as proxy:
        token = new_token()
        first, second = connect_to(proxy.port), connect_to(proxy.port)
        first.send(line(token, new_side()))
        relay.wait_for(waiting=1)
        second.send(line(token, new_side())).expect(b"ok\n")
        exchange(first.expect(b"ok\n"), second)
        transfer(first, second, 20 << 20)
        second.send(b"half a pair")
        first.expect(b"half a pair")
        second.finish()
        first.expect_end()
        relay.wait_for(used=0)


@behaviour(*PROXIES)
def sources_behind_a_real_proxy_are_told_apart(kind):
    with Relay(options=[*TRUST, "--per-source=2"]) as relay, in_front(kind, relay) as proxy:
        kept = [connect_to(proxy.port, source) for source in ("127.0.0.2", "127.0.0.2", "127.0.0.3")]
        assert all(is_admitted(client) for client in kept)
        assert not is_admitted(connect_to(proxy.port, "127.0.0.2"))
        assert is_admitted(connect_to(proxy.port, "127.0.0.3"))


@contextlib.contextmanager
def behind_a_site():
    """A relay at a Unix socket in a directory like /run, and the nginx in front of it, which is another
    user's as soon as it listens."""
    with open(os.path.join(TOP, "samples", "nginx-web.conf"), encoding="ascii") as file:
        text = file.read()
    assert text.count("unix:/run/relay-web.sock") == 2, "the relay's option and where nginx looks"
    with tempfile.TemporaryDirectory(prefix="relay-proxy-") as directory:
        os.chmod(directory, 0o755)
        path = os.path.join(directory, "web.sock")
        with Relay(address=f"unix:{path}") as relay:
            wait_until(lambda: os.path.exists(path), "the socket")
            with Proxy("nginx", "nginx-web.conf", lambda port: {
                    "listen 80": f"listen 127.0.0.1:{port}",
                    "unix:/run/relay-web.sock": f"unix:{path}",
                    "worker_connections 20000": "worker_connections 500"}) as proxy:
                yield relay, proxy


@behaviour()
def the_page_and_the_upgrade_come_through_nginx_beside_a_site():
    with behind_a_site() as (_, proxy):
        assert get(proxy, "/").status == 200
        response = try_upgrade(proxy, "/introduction/somebody", key="dGhlIHNhbXBsZSBub25jZQ==")
        assert response.status == 101, response.status
        assert response.headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@behaviour(*PAIRS)
def web_clients_meet_through_nginx_beside_a_site(protocol):
    with behind_a_site() as (relay, proxy):
        first, second = PAIRS[protocol](proxy)
        for size in (1, 1000, 100_000, 1 << 20):
            data = os.urandom(size)
            for one, other in ((first, second), (second, first)):
                one.send_binary(data)
                assert receive_bytes(other, size) == data, f"{size} bytes differ"
        first.send_binary(b"goodbye").send_close()
        assert receive_bytes(second, 7) == b"goodbye"
        second.expect_close(1000)
        relay.wait_for(used=0)


@behaviour()
def peers_are_introduced_through_nginx_beside_a_site():
    with behind_a_site() as (_, proxy):
        alice, bob = introduced(proxy, "al%20ice", "doc"), introduced(proxy, "bob", "doc")
        expect_introduction(alice, "bob", "doc")
        expect_introduction(bob, "al ice", "doc")


@behaviour("haproxy v2", "haproxy v1")
def health_checks_of_a_real_proxy_are_quiet(kind):
    with Relay(options=TRUST) as relay:
        before = relay.log()
        with in_front(kind, relay) as proxy:
            time.sleep(1.5)  # some checks
            with connect_to(proxy.port) as client:
                assert is_admitted(client), "the server counts as up"
            relay.wait_for(used=0)
            relay.wait_for_outcomes(lonely=1)
        counted = relay.status()["protocols"].values()
        assert sum(sum(counts.values()) for counts in counted) == 1, "checks are not counted"
        assert relay.log() == before, relay.log()


if __name__ == "__main__":
    run()
