"""TLS on the same port: what a client sees, and what happens to the processes behind it."""

import contextlib
import os
import signal
import ssl
import subprocess
import time
import warnings

import web_protocols as web
from harness import (Client, Relay, Skip, alive, behaviour, children, descriptors, exchange, line,
                     make_pair, meet, new_side, new_token, private_memory, process_name, run,
                     transfer, wait_until)
from offset_client import Connection
from offset_relay import OffsetRelay
from offset_relay import exchange as exchange_through_tunnel
from tls_client import FIRST, SECOND, Certificate, Pieces, Secure, Splitting, renewable, secure_relay
from websocket_client import TEXT, upgrade_request

WAYS = Relay.MODES
MANY = 50 << 20


# ---- the bytes ------------------------------------------------------------------------


@behaviour(*WAYS)
def clients_with_and_without_TLS_meet_on_the_same_port(how):
    with secure_relay(how) as relay:
        for first, second in ((Secure, relay.connect), (relay.connect, Secure), (Secure, Secure)):
            make = [side(relay) if side is Secure else side() for side in (first, second)]
            exchange(*meet(*make), size=100000)
            for client in make:
                client.close()
        relay.wait_for(used=0)
        relay.wait_for_outcomes(happy=3)


@behaviour("TLSv1.2", "TLSv1.3", "RSA")
def both_versions_and_kinds_of_key_carry_bytes(what):
    certificate = Certificate("rsa", "rsa") if what == "RSA" else FIRST
    context = certificate.context()
    if what != "RSA":
        context.minimum_version = context.maximum_version = getattr(
            ssl.TLSVersion, what.replace(".", "_"))
    with secure_relay(certificate=certificate) as relay:
        first, second = meet(Secure(relay, context), Secure(relay, context))
        assert what == "RSA" or first.socket.version() == what
        exchange(first, second, 1 << 20)


@behaviour("1", "2", "15")
def a_handshake_may_end_in_however_many_records(size):
    with secure_relay() as relay:
        first, second = meet(Splitting(relay, int(size)).shake_hands(), relay.connect())
        exchange(first, second)
        first.finish()
        second.expect_end()


@behaviour()
def an_alert_arrives_before_the_end_whatever_else_the_client_has_sent():
    with secure_relay() as relay:
        client = Pieces(relay).shake_hands()
        Client.send(client, b"\x17\3\3\0\x20" + bytes(32) + bytes(1000))
        heard = b""
        while part := client.socket.recv(4096):  # a reset is an error here
            heard += part
        assert heard[:3] == b"\x17\3\3" and len(heard) == 24, heard  # a sealed alert


@behaviour(*WAYS)
def large_transfers_arrive_whole_in_both_directions(how):
    with secure_relay(how) as relay:
        sender, receiver = meet(relay.connect(), Secure(relay))
        transfer(sender, receiver, MANY)
        half = Pieces(relay).shake_hands()
        sender, receiver = meet(half, relay.connect())
        transfer(sender, receiver, MANY)


@behaviour()
def an_end_of_file_is_passed_on_as_one_and_the_other_direction_goes_on():
    with secure_relay() as relay:
        first, second = meet(Pieces(relay).shake_hands(), Pieces(relay).shake_hands())
        first.send(b"the last of it")
        first.finish()
        second.expect(b"the last of it")
        assert second.receive(1) == b"", "the end"
        second.send(b"an answer")
        first.expect(b"an answer")
        second.finish()
        assert first.receive(1) == b"", "the end"
        relay.wait_for(used=0)


@behaviour()
def a_client_that_closes_without_a_close_notify_has_closed():
    with secure_relay() as relay:
        first, second = meet(Secure(relay), relay.connect())
        first.send(b"bye")
        first.close()
        second.expect(b"bye").expect_end()


@behaviour("reset", "its peer's reset")
def a_client_that_vanishes_ends_its_pair(how):
    with secure_relay() as relay:
        first, second = meet(Secure(relay), relay.connect())
        if how == "reset":
            Client.reset(first)
            second.expect_end()
            second.close()
        else:
            second.reset()
            try:
                assert first.receive(1) == b"", "nothing more comes"
            except ssl.SSLError:
                pass
            first.close()
        relay.wait_for(used=0)


@behaviour()
def a_slow_reader_slows_its_sender_and_gets_everything():
    with secure_relay() as relay:
        sender, receiver = meet(Secure(relay), Secure(relay))
        block = os.urandom(1 << 16)
        sender.socket.settimeout(1)
        sent = 0
        try:
            while sent < 64 << 20:
                sender.send(block)
                sent += len(block)
        except TimeoutError:
            pass
        assert sent < 64 << 20, "the sender was never held up"
        for _ in range(sent // len(block)):
            receiver.expect(block)


@behaviour()
def messages_of_every_size_around_a_records_arrive():
    with secure_relay() as relay:
        first, second = meet(Secure(relay), Secure(relay))
        for size in (1, 2, 255, 4096, 16383, 16384, 16385, 32768, 65535, 65536, 65537, 200001):
            exchange(first, second, size)


class SecureNode(Connection):
    """An Offset node's connection in TLS. Python's TLS is for one thread: such a node sends no
    keepalives by itself."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, lively=False, **options)

    def dial(self, address):
        return FIRST.context().wrap_socket(super().dial(address), server_hostname="relay.test")


@behaviour(*WAYS)
def offset_nodes_with_and_without_TLS_listen_and_connect_to_each_other(how):
    with OffsetRelay(how, FIRST.options()) as relay:
        for listening in (SecureNode, Connection):
            listener = relay.listener(kind=listening)
            for connecting in (SecureNode, Connection):
                connector = relay.connector(listener, kind=connecting)
                acceptor = relay.acceptor(listener, connector, kind=listening)
                exchange_through_tunnel(connector, acceptor)
                message = os.urandom(300_000)  # of more than one record, and more than a buffer
                for one, other in ((connector, acceptor), (acceptor, connector)):
                    one.send(message)
                    assert other.receive() == message
                acceptor.close()
                connector.expect_closed()
            listener.close()
        relay.wait_for(used=0)


@behaviour()
def an_offset_tunnel_in_TLS_survives_new_keys():
    with OffsetRelay(options=FIRST.options()) as relay:
        connector, acceptor = relay.tunnel(kind=SecureNode)
        for node in (connector, acceptor):
            node.begin_rekey()
            exchange_through_tunnel(connector, acceptor)
        assert connector.channel.rekeys == acceptor.channel.rekeys == 1


@behaviour(*WAYS)
def websocket_pairs_meet_in_TLS_and_with_those_outside(how):
    inside = {"context": FIRST.context()}
    with secure_relay(how) as relay:
        for pair in web.PAIRS.values():
            web.exchange(*pair(relay, **inside), size=300_000)
        for one, other in ((inside, {}), ({}, inside)):
            code = web.new_code()
            first, second = web.sender(relay, code, **one), web.receiver(relay, code, **other)
            first.expect_text('{"type":"ready"}')
            web.exchange(first, second)
            alice = web.connection(relay, "alice", "bob", code, **one).send_text("early")
            bob = web.connection(relay, "bob", "alice", code, **other).expect_message(TEXT, b"early")
            web.exchange(alice, bob)


@behaviour(*WAYS)
def peers_in_TLS_are_introduced_to_those_outside(how):
    with secure_relay(how) as relay:
        alice = web.introduced(relay, "alice", "doc", context=FIRST.context()).settle()
        bob = web.introduced(relay, "bob", "doc")
        web.expect_introduction(alice, "bob", "doc")
        web.expect_introduction(bob, "alice", "doc")


def get(client, path):
    """The status of an answer to a request, and all of the answer."""
    client.send(f"GET {path} HTTP/1.1\r\nHost: relay.test\r\n\r\n".encode())
    answer = client.receive(1 << 20)
    return int(answer.split()[1]), answer


@behaviour(*WAYS)
def the_page_and_the_health_are_served_in_TLS(how):
    with secure_relay(how) as relay:
        for path, expected in (("/", 200), ("/healthz", 200), ("/none", 404)):
            with Secure(relay) as client:
                status, answer = get(client, path)
                assert status == expected, answer
        relay.wait_for(used=0)


@behaviour()
def a_full_relay_says_so_in_TLS():
    with secure_relay(options=["--max-connections=2"]) as relay:
        kept = [relay.connect().send(line(new_token())) for _ in range(2)]
        relay.wait_for(waiting=2)
        with Secure(relay) as client:
            status, answer = get(client, "/healthz")
            assert status == 503, answer
        for client in kept:
            client.close()


# ---- records --------------------------------------------------------------------------


def of_version(version):
    context = FIRST.context()
    context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
    return context


@behaviour()
def both_versions_and_plain_clients_meet_each_other():
    with secure_relay() as relay:
        kinds = [lambda: Secure(relay, of_version("TLSv1_2")),
                 lambda: Secure(relay, of_version("TLSv1_3")), relay.connect]
        for first in kinds:
            for second in kinds:
                exchange(*meet(first(), second()), size=300000)


class OpenSSL:
    """openssl s_client, which can change its keys."""

    def __init__(self, relay, *options):
        self.said = b""
        self.process = subprocess.Popen(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{relay.port}", *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)
        os.set_blocking(self.process.stdout.fileno(), False)
        self.expect(b"---\nSSL handshake has read")

    def send(self, data):
        self.process.stdin.write(data)
        return self

    def expect(self, data):
        def came():
            self.said += self.process.stdout.read() or b""
            return data in self.said
        wait_until(came, f"{data!r} from openssl")
        self.said = self.said.partition(data)[2]
        return self

    def change_keys(self, letter):
        return self.send(letter).expect(b"KEYUPDATE\n")

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@behaviour("K", "k")
def a_client_may_change_its_keys_at_any_time(letter):
    """K asks the relay to change its own, too."""
    letter = letter.encode()
    with secure_relay() as relay:
        token = new_token()
        client = OpenSSL(relay, "-tls1_3")
        try:
            client.change_keys(letter)
            client.send(line(token, new_side()))
            relay.wait_for(waiting=1)
            client.change_keys(letter)
            peer = relay.connect().send(line(token, new_side())).expect(b"ok\n")
            client.expect(b"ok\n")
            for number in range(10):
                words = b"number %d\n" % number
                client.change_keys(letter).send(words)
                peer.expect(words).send(b"answer to " + words)
                client.expect(b"answer to " + words)
        finally:
            client.close()


@behaviour()
def in_TLS_1_2_keys_are_not_negotiated_again():
    with secure_relay() as relay:
        token = new_token()
        client = OpenSSL(relay, "-tls1_2")
        try:
            client.send(line(token, new_side()))
            peer = relay.connect().send(line(token, new_side())).expect(b"ok\n")
            client.send(b"R").expect(b"RENEGOTIATING")
            peer.expect_end()
        finally:
            client.close()


@behaviour("waiting", "paired")
def half_a_record_holds_no_other_client_up_and_is_delivered_once_it_is_complete(state):
    with secure_relay() as relay:
        slow, token = Pieces(relay).shake_hands(), new_token()
        text = line(token, new_side()) if state == "waiting" else os.urandom(10000)
        if state == "paired":
            peer = meet(slow, relay.connect())[1]
        slow.tls.write(text)
        data = slow.outgoing.read()
        slow.socket.sendall(data[:len(data) // 2])
        exchange(*meet(Secure(relay), Secure(relay)))
        slow.socket.sendall(data[len(data) // 2:])
        if state == "paired":
            peer.expect(text)
        else:
            relay.connect().send(line(token, new_side())).expect(b"ok\n")
            slow.expect(b"ok\n")


@behaviour("in its place", "too soon")
def a_record_that_was_tampered_with_ends_its_pair_and_no_other(when):
    with secure_relay() as relay:
        other = meet(Secure(relay), Secure(relay))
        bad = Pieces(relay).shake_hands()
        if when == "in its place":
            peer = meet(bad, relay.connect())[1]
        else:
            bad.send(line(new_token()))
            relay.wait_for(waiting=1)
        bad.tls.write(b"to be changed")
        data = bytearray(bad.outgoing.read())
        data[-1] ^= 1
        bad.socket.sendall(bytes(data))
        try:
            bad.receive(1)
            raise AssertionError("no alert came")
        except ssl.SSLError as error:
            assert "BAD_RECORD_MAC" in str(error).upper(), error
        if when == "in its place":
            peer.expect_end()
            peer.close()
        bad.close()
        exchange(*other)
        relay.wait_for(joined=2, used=2)


def is_told_by_an_alert(client, unread):
    """Sends what breaks TLS, and `unread` bytes behind it, before it reads anything. Whether it is
    then told what was wrong, and comes to an end and not to a reset."""
    try:
        client.socket.sendall(b"\x17\3\3\0\x20" + bytes(32))
        for _ in range(unread // UNREAD_AT_ONCE):
            client.socket.sendall(bytes(UNREAD_AT_ONCE))
        client.receive(1 << 20)
    except ssl.SSLError as error:
        assert "BAD_RECORD_MAC" in str(error).upper(), error
        while client.socket.recv(1 << 16):
            pass
        return True
    return False


UNREAD_AT_ONCE = 1000
CLIENTS_IN_TLS = {
    "waiting": lambda relay: (Pieces(relay).shake_hands().send(line(new_token())), None),
    "waiting for news": lambda relay: (
        Pieces(relay).shake_hands().send(upgrade_request("/introduction/alice")), None),
    "paired": lambda relay: meet(Pieces(relay).shake_hands(), relay.connect()),
}


@behaviour(*CLIENTS_IN_TLS)
def a_client_that_breaks_TLS_reads_an_alert_however_much_it_has_sent_behind(what):
    sizes = [0, 1000, 100_000, 3_000_000] * 5
    states = {"joined": 2} if what == "paired" else {"waiting": 1}
    told = 0
    with secure_relay() as relay:
        for size in sizes:
            client, peer = CLIENTS_IN_TLS[what](relay)
            relay.wait_for(**states)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                told += is_told_by_an_alert(client, size)
            client.close()
            if peer is not None:
                peer.expect_end()
                peer.close()
            relay.wait_for(used=0)
    assert told == len(sizes), f"{told} of {len(sizes)} were told"


@behaviour("TLSv1_2", "TLSv1_3")
def a_client_that_waits_may_do_nothing_but_leave(version):
    with secure_relay() as relay:
        for leave in (lambda client: client.send(b"x"), lambda client: client.close()):
            client = Secure(relay, of_version(version)).send(line(new_token()))
            relay.wait_for(waiting=1)
            leave(client)
            relay.wait_for(used=0)
        relay.wait_for_outcomes(impatient=1, lonely=1)


@behaviour()
def thousands_that_wait_in_TLS_cost_little():
    count, limit = 2000, 2048
    context = FIRST.context()
    with secure_relay() as relay:
        for client in [Secure(relay, context) for _ in range(50)]:
            client.close()
        exchange(*meet(Secure(relay, context), Secure(relay, context)))
        before = private_memory(relay.forwarder())
        clients = [Secure(relay, context).send(line(new_token())) for _ in range(count)]
        relay.wait_for(waiting=count)
        each = (private_memory(relay.forwarder()) - before) / count
        print(f"#   {each:.0f} bytes of the forwarder for each")
        assert each < limit, each
        exchange(*meet(Secure(relay, context), Secure(relay, context)))
        for client in clients:
            client.close()
        relay.wait_for(used=0)


# ---- the handshake --------------------------------------------------------------------


@behaviour(*WAYS)
def a_handshake_that_comes_byte_by_byte_is_understood(how):
    with secure_relay(how) as relay:
        slow = Pieces(relay).shake_hands(piece=1)
        token = new_token()
        slow.send(line(token, new_side()), piece=1)
        with relay.connect() as other:
            other.send(line(token, new_side())).expect(b"ok\n")
            slow.expect(b"ok\n")


@behaviour()
def garbage_that_begins_like_TLS_is_answered_with_an_alert():
    with secure_relay() as relay:
        for garbage in (b"\x16\x03" + b"\xff" * 100, b"\x16\x03\x01\x00\x05hello"):
            with relay.connect() as client:
                client.send(garbage)
                client.finish()
                answer = client.receive(100)
                assert answer[:1] == b"\x15" and answer[5:6] == b"\x02", answer
        make_pair(relay)
        relay.wait_for_outcomes("tls", errory=2)
        # A second of a kind within a minute is counted, and said with the others later.
        assert relay.log().count("refused a connection (tls): a bad handshake") == 1, relay.log()


@behaviour()
def a_handshake_that_stops_anywhere_ends_at_the_deadline():
    with secure_relay(options=["--handshake-timeout=1"]) as relay:
        hello = Pieces(relay)
        try:
            hello.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        data = hello.outgoing.read()
        clients = [relay.connect().send(data[:size]) for size in (1, 2, 5, len(data) - 1, len(data))]
        for client in clients:
            while client.receive(1):
                pass
        relay.wait_for(used=0)


@behaviour("TLSv1", "TLSv1_1")
def older_versions_are_refused(version):
    with secure_relay() as relay:
        context = FIRST.context()
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = getattr(ssl.TLSVersion, version)
        try:
            Secure(relay, context)
            raise AssertionError("it was let in")
        except ssl.SSLError as error:
            assert "ALERT" in str(error).upper(), error


@behaviour()
def without_a_certificate_TLS_is_refused_as_TLS_does_it():
    with Relay() as relay:
        try:
            Secure(relay)
            raise AssertionError("it was let in")
        except ssl.SSLError as error:
            assert "HANDSHAKE_FAILURE" in str(error).upper(), error
        make_pair(relay)
        relay.wait_for_outcomes("tls", errory=1)
        assert relay.log().count("refused a connection (tls): a bad handshake") == 1


@behaviour()
def a_line_in_TLS_is_judged_as_any_other():
    with secure_relay() as relay:
        with Secure(relay) as client:
            client.send(b"please DELAY me\n")
            assert client.receive(100) == b"bad handshake\n"
        with Secure(relay) as client:
            client.send(line(new_token()) + b"early")
            assert client.receive(100) == b"impatient\n"
        relay.wait_for_outcomes(errory=1, impatient=1)


@behaviour()
def TLS_in_TLS_is_refused():
    with secure_relay() as relay:
        outer, inner = Pieces(relay).shake_hands(), Pieces(relay)
        try:
            inner.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        outer.send(inner.outgoing.read())
        outer.finish()
        assert outer.receive(100)[:1] == b"\x15"  # an alert
        relay.wait_for_outcomes("tls", errory=1)


# ---- processes ------------------------------------------------------------------------


def keeper(relay):
    found = [pid for pid in children(relay.process.pid) if process_name(pid) == "relay-keeper"]
    return found[0] if found else 0


@behaviour()
def a_connection_in_TLS_leaves_no_process_and_no_descriptor_but_its_own_behind():
    with secure_relay(options=["--max-use=1"]) as relay:
        exchange(*meet(Secure(relay), relay.connect()))
        relay.wait_for(used=0)
        processes, held = len(children(relay.process.pid)), len(descriptors(relay.forwarder()))
        pairs = [meet(Secure(relay), relay.connect()) for _ in range(5)]
        wait_until(lambda: len(children(relay.process.pid)) == processes, "the workers to end")
        assert len(descriptors(relay.forwarder())) == held + 10
        for pair in pairs:
            exchange(*pair)


def filters(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return int(next(text for text in file if text.startswith("Seccomp_filters:")).split()[1])


@behaviour()
def a_keeper_is_in_a_sandbox_as_a_worker_is():
    with secure_relay() as relay:
        worker = filters(wait_until(relay.workers, "a worker")[0])
        if worker == 0:
            raise Skip("this build has no sandbox")
        assert filters(wait_until(lambda: keeper(relay), "the keeper")) == worker


def expect_closed(client):
    """No process is left that could say so in TLS."""
    try:
        assert client.receive(1) == b""
    except (ssl.SSLError, ConnectionError):
        pass
    client.close()


@behaviour("worker", "forwarder")
def a_process_that_is_killed_takes_its_own_connections_along_and_no_others(whom):
    with secure_relay() as relay:
        client = Secure(relay)
        if whom == "worker":
            other = meet(Secure(relay), relay.connect())
            client.send(b"please relay ")
            relay.wait_for(greeting=1)
            for worker in relay.workers():
                os.kill(worker, signal.SIGKILL)
            exchange(*other)
        else:
            peer = meet(client, relay.connect())[1]
            os.kill(relay.forwarder(), signal.SIGKILL)
            peer.expect_end()
        expect_closed(client)
        exchange(*meet(Secure(relay), Secure(relay)))


@behaviour()
def workers_killed_in_every_step_of_a_handshake_leave_nothing_behind():
    with secure_relay() as relay:
        for round_ in range(30):
            client = Pieces(relay)
            try:
                client.tls.do_handshake()
            except ssl.SSLWantReadError:
                client.flush()
            time.sleep(round_ * 0.0002)
            for worker in relay.workers():
                os.kill(worker, signal.SIGKILL)
            client.close()
        wait_until(lambda: relay.workers(), "new workers")
        relay.wait_for(used=0)
        exchange(*meet(Secure(relay), Secure(relay)))


@behaviour()
def a_killed_keeper_is_replaced():
    certificate = renewable("kept")
    with secure_relay(certificate=certificate) as relay:
        before = wait_until(lambda: keeper(relay), "the keeper")
        os.kill(before, signal.SIGKILL)
        with Secure(relay) as client:
            assert client.name() == "first"
        wait_until(lambda: keeper(relay) not in (0, before), "another keeper")
        SECOND.install_as(certificate)

        def served():
            try:
                with Secure(relay, SECOND.context()) as client:
                    return client.name()
            except ssl.SSLCertVerificationError:
                return "first"  # by a worker from before, which has no keeper to ask

        wait_until(lambda: served() == "second", "the renewed certificate to be served")


@behaviour()
def a_stalled_keeper_holds_no_client_up_for_long():
    with secure_relay() as relay:
        stalled = wait_until(lambda: keeper(relay), "the keeper")
        os.kill(stalled, signal.SIGSTOP)
        try:
            for _ in range(3):
                exchange(*meet(Secure(relay), Secure(relay)))
        finally:
            os.kill(stalled, signal.SIGCONT)
        # The others did not wait for it.
        assert relay.log().count("the keeper of the certificate does not answer") == 1, relay.log()


@behaviour()
def stopping_ends_pairs_as_it_does_without_TLS_and_leaves_no_process():
    relay = secure_relay()
    with relay:
        first, second = meet(Secure(relay), relay.connect())
        kept = keeper(relay)
        assert relay.stop() == 0
        assert first.receive(1) == b"", "the end, told as TLS does"
        second.expect_end()
        first.close()
        wait_until(lambda: not alive(kept), "the keeper to end")


@behaviour()
def connections_in_TLS_are_counted_by_their_source():
    with secure_relay(options=["--per-source=2"]) as relay:
        kept = meet(Secure(relay), Secure(relay))
        with relay.connect() as client:
            client.expect_end()
        exchange(*kept)


@behaviour("TLSv1_2", "TLSv1_3")
def the_kernel_carries_TLS_1_2_where_it_can(version):
    with open("/proc/sys/net/ipv4/tcp_available_ulp", encoding="ascii") as file:
        if "tls" not in file.read().split():
            raise Skip("this kernel has no TLS of its own; kernel_tls_test.py brings one that has")
    context = FIRST.context()
    context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
    with secure_relay() as relay:
        first, second = meet(Secure(relay, context), relay.connect())
        assert carried_by_the_kernel() == (version == "TLSv1_2")
        exchange(first, second, 1 << 20)


def carried_by_the_kernel():
    with open("/proc/net/tls_stat", encoding="ascii") as file:
        counts = dict(line.split() for line in file)
    return int(counts["TlsCurrTxSw"]) == int(counts["TlsCurrRxSw"]) == 1


if __name__ == "__main__":
    run()
