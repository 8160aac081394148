"""How magic-wormhole's transit relay behaves over TCP, held against the real process."""

import os
import time

from harness import (Relay, behaviour, exchange, line, make_pair, new_side, new_token, run, transfer,
                     wait_until)

WAYS = ("serve", "accept")


# ---- meeting -------------------------------------------------------------------


@behaviour(*WAYS)
def two_clients_without_sides_meet(how):
    with Relay(how) as relay:
        exchange(*make_pair(relay, sided=False))


@behaviour(*WAYS)
def two_clients_of_different_sides_meet(how):
    with Relay(how) as relay:
        exchange(*make_pair(relay))


@behaviour(*WAYS)
def a_client_with_a_side_meets_one_without(how):
    with Relay(how) as relay:
        token = new_token()
        with relay.connect() as sided, relay.connect() as other:
            sided.send(line(token, new_side()))
            relay.wait_for(waiting=1)
            other.send(line(token)).expect(b"ok\n")
            sided.expect(b"ok\n")
            exchange(sided, other)


@behaviour(*WAYS)
def a_client_without_a_side_meets_one_with_a_side(how):
    with Relay(how) as relay:
        token = new_token()
        with relay.connect() as other, relay.connect() as sided:
            other.send(line(token))
            relay.wait_for(waiting=1)
            sided.send(line(token, new_side())).expect(b"ok\n")
            other.expect(b"ok\n")
            exchange(sided, other)


@behaviour(*WAYS)
def the_same_side_does_not_meet_itself_and_the_spare_is_closed(how):
    with Relay(how) as relay:
        token, side = new_token(), new_side()
        same = [relay.connect().send(line(token, side)) for _ in range(2)]
        relay.wait_for(waiting=2, tokens=1)
        other = relay.connect().send(line(token, new_side())).expect(b"ok\n")
        answers = sorted(client.receive(3) for client in same)
        assert answers == [b"", b"ok\n"], answers
        relay.wait_for(joined=2, used=2)
        for client in (other, *same):
            client.close()
        relay.wait_for(used=0)
        relay.wait_for_outcomes(happy=1, redundant=1)


@behaviour()
def two_hundred_spares_are_all_closed():
    with Relay() as relay:
        token, side = new_token(), new_side()
        same = [relay.connect().send(line(token, side)) for _ in range(200)]
        relay.wait_for(waiting=200)
        with relay.connect() as other:
            other.send(line(token, new_side())).expect(b"ok\n")
            answers = sorted(client.receive(3) for client in same)
            assert answers == [b""] * 199 + [b"ok\n"], "one of them is taken"
            relay.wait_for(joined=2, used=2)


@behaviour()
def other_tokens_do_not_meet():
    with Relay() as relay:
        clients = [relay.connect().send(line(new_token(), new_side())) for _ in range(8)]
        relay.wait_for(waiting=8, tokens=8)
        exchange(*make_pair(relay))
        for client in clients:
            client.expect_silence()


@behaviour()
def a_token_may_be_used_again_after_its_pair_ended():
    with Relay() as relay:
        token = new_token()
        for _ in range(3):
            with relay.connect() as first, relay.connect() as second:
                first.send(line(token, new_side()))
                second.send(line(token, new_side()))
                first.expect(b"ok\n")
                second.expect(b"ok\n")
                exchange(first, second)


@behaviour()
def two_pairs_under_one_token_do_not_mix():
    with Relay() as relay:
        token = new_token()
        pairs = []
        for _ in range(2):
            first = relay.connect().send(line(token, new_side()))
            relay.wait_for(waiting=1)
            second = relay.connect().send(line(token, new_side())).expect(b"ok\n")
            pairs.append((first.expect(b"ok\n"), second))
        for pair in pairs:
            exchange(*pair)


# ---- handshakes -----------------------------------------------------------------------

TOKEN, SIDE = b"0" * 64, b"1" * 16

BAD_LINES = {
    "another verb": b"please DELAY " + TOKEN + b"\n",
    "another verb, with a side": b"please DELAY " + TOKEN + b" for side " + SIDE + b"\n",
    "binary": b"\x00\x01\xe0\x0f\n\xff",
    "empty": b"\n",
    "a carriage return": b"please relay " + TOKEN + b"\r\n",
    "a short token": b"please relay " + TOKEN[1:] + b"\n",
    "a long token": b"please relay " + TOKEN + b"0\n",
    "a hyphen in the token": b"please relay " + TOKEN[1:] + b"-\n",
    "a short side": b"please relay " + TOKEN + b" for side " + SIDE[1:] + b"\n",
    "a long side": b"please relay " + TOKEN + b" for side " + SIDE + b"1\n",
    "an empty side": b"please relay " + TOKEN + b" for side \n",
    "two blanks": b"please  relay " + TOKEN + b"\n",
    "a blank behind": b"please relay " + TOKEN + b" \n",
    "a zero byte": b"please relay " + TOKEN[1:] + b"\0\n",
    "upper case": b"PLEASE RELAY " + TOKEN + b"\n",
    "something beyond ASCII": b"please relay " + TOKEN[2:] + "é".encode() + b"\n",
}


@behaviour(*WAYS)
def a_bad_line_is_answered_and_closed(how):
    with Relay(how) as relay:
        for what, text in BAD_LINES.items():
            with relay.connect() as client:
                got = client.send(text).receive(100)
                assert got == b"bad handshake\n", f"{what}: {got!r}"
        relay.wait_for(used=0)
        relay.wait_for_outcomes(errory=len(BAD_LINES))


@behaviour(*WAYS)
def a_bad_line_in_two_segments_is_answered(how):
    with Relay(how) as relay, relay.connect() as client:
        client.send(b"please DELAY ")
        relay.wait_for(greeting=1)
        client.send(TOKEN + b"\n").expect(b"bad handshake\n").expect_end()


@behaviour()
def a_line_of_1024_bytes_without_an_end_is_bad():
    with Relay() as relay, relay.connect() as client:
        client.send(b"x" * 1024).expect(b"bad handshake\n").expect_end()


@behaviour()
def a_megabyte_without_an_end_is_refused_and_its_refusal_arrives():
    with Relay() as relay, relay.connect() as client:
        try:
            client.send(b"x" * (1 << 20))
        except OSError:
            return
        client.expect(b"bad handshake\n")


@behaviour()
def letters_digits_and_underscore_are_words():
    with Relay() as relay:
        token = (b"abcXYZ_019" * 7)[:64]
        with relay.connect() as first, relay.connect() as second:
            first.send(line(token, b"Side_Aaaaaaaaaaa"))
            second.send(line(token, b"Side_Bbbbbbbbbbb")).expect(b"ok\n")
            first.expect(b"ok\n")


@behaviour(*WAYS)
def a_line_byte_by_byte_is_understood(how):
    with Relay(how) as relay, relay.connect() as first, relay.connect() as second:
        token = new_token()
        for byte in line(token, new_side()):
            first.send(bytes([byte]))
        second.send(line(token)).expect(b"ok\n")
        first.expect(b"ok\n")
        exchange(first, second)


@behaviour(*WAYS)
def a_handshake_that_never_ends_is_closed_at_its_deadline(how):
    with Relay(how, ["--handshake-timeout=1"]) as relay:
        with relay.connect() as silent, relay.connect() as slow:
            slow.send(b"please relay ")
            slow.expect_end()
            silent.expect_end()
        relay.wait_for(used=0)
        relay.wait_for_outcomes(empty=2)


# ---- impatience -----------------------------------------------------------------------


@behaviour(*WAYS)
def bytes_in_the_same_segment_as_the_line_are_impatient(how):
    with Relay(how) as relay:
        for side in (None, new_side()):
            with relay.connect() as client:
                client.send(line(new_token(), side) + b"NOWNOWNOW")
                client.expect(b"impatient\n").expect_end()
        relay.wait_for_outcomes(impatient=2)


@behaviour(*WAYS)
def bytes_after_the_line_and_before_the_match_are_impatient(how):
    with Relay(how) as relay:
        for side in (None, new_side()):
            with relay.connect() as client:
                client.send(line(new_token(), side))
                relay.wait_for(waiting=1)
                client.send(b"NOW").expect(b"impatient\n").expect_end()
                relay.wait_for(used=0)
        relay.wait_for_outcomes(impatient=2)


@behaviour()
def an_impatient_client_is_no_longer_met():
    with Relay() as relay, relay.connect() as early, relay.connect() as late:
        token = new_token()
        early.send(line(token, new_side()))
        relay.wait_for(waiting=1)
        early.send(b"x").expect(b"impatient\n").expect_end()
        late.send(line(token, new_side()))
        relay.wait_for(waiting=1, used=1)
        with relay.connect() as other:
            other.send(line(token, new_side())).expect(b"ok\n")
            late.expect(b"ok\n")  # and nothing before


# ---- hang-ups -------------------------------------------------------------------------


@behaviour(*WAYS)
def a_client_that_hangs_up_before_its_line_leaves_no_slot(how):
    with Relay(how) as relay:
        for text in (b"", b"p", b"please relay ", line(TOKEN)[:-1]):
            relay.connect().send(text).close()
        relay.connect().send(b"please").reset()
        relay.wait_for_outcomes(empty=5)
        relay.wait_for(used=0)


@behaviour(*WAYS)
def a_client_that_hangs_up_while_waiting_is_forgotten(how):
    with Relay(how) as relay:
        token = new_token()
        client = relay.connect().send(line(token, new_side()))
        relay.wait_for(waiting=1)
        client.close()
        relay.wait_for(used=0, tokens=0)
        client = relay.connect().send(line(token, new_side()))
        relay.wait_for(waiting=1)
        client.reset()
        relay.wait_for(used=0)
        relay.wait_for_outcomes(lonely=2)
        exchange(*make_pair(relay))


@behaviour()
def a_client_that_shuts_down_its_writing_side_while_waiting_is_closed():
    with Relay() as relay, relay.connect() as client:
        client.send(line(new_token()))
        relay.wait_for(waiting=1)
        client.finish()
        client.expect_end()
        relay.wait_for(used=0)


@behaviour(*WAYS)
def bytes_that_were_sent_before_a_close_arrive(how):
    with Relay(how) as relay:
        first, second = make_pair(relay)
        data = os.urandom(300_000)
        first.send(data)
        first.close()
        second.expect(data).expect_end()
        second.close()
        relay.wait_for(used=0)


@behaviour(*WAYS)
def an_end_of_file_is_passed_on_and_the_answer_comes_back(how):
    with Relay(how) as relay:
        first, second = make_pair(relay)
        first.send(b"question").finish()
        second.expect(b"question").expect_end()
        second.send(b"answer").close()
        first.expect(b"answer").expect_end()
        relay.wait_for(used=0)
        relay.wait_for_outcomes(happy=1)


@behaviour()
def a_silent_half_closed_pair_ends_after_the_linger_time():
    with Relay(options=["--linger=1"]) as relay:
        first, second = make_pair(relay)
        first.finish()
        second.expect_end()
        relay.wait_for(used=0)
        first.expect_end()


@behaviour()
def a_slow_reader_gets_everything_though_the_sender_has_gone():
    with Relay(options=["--linger=1"]) as relay:
        first, second = make_pair(relay)
        data = os.urandom(3_000_000)
        received = b""
        first.socket.settimeout(1)
        sent = 0
        try:
            while sent < len(data):
                sent += first.socket.send(data[sent:])
        except TimeoutError:
            pass
        first.close()
        until = time.monotonic() + 3
        while time.monotonic() < until:  # much slower than linger, but never still
            received += second.socket.recv(10_000)
            time.sleep(0.1)
        received += second.receive(len(data))
        assert received == data[:sent], f"{len(received)} of {sent} bytes arrived"


@behaviour(*WAYS)
def a_reset_ends_the_pair(how):
    with Relay(how) as relay:
        first, second = make_pair(relay)
        first.reset()
        second.expect_end()
        relay.wait_for(used=0)
        relay.wait_for_outcomes(happy=1)


# ---- bytes ----------------------------------------------------------------------------


@behaviour("serve", "activate", "accept", "inetd", "xinetd")
def a_hundred_megabytes_arrive_whole(how):
    with Relay(how) as relay:
        first, second = make_pair(relay)
        transfer(first, second, 100_000_000)
        second.send(b"got it").close()
        first.expect(b"got it").expect_end()
        relay.wait_for(used=0)
        assert relay.status()["total_bytes"] == 100_000_006


@behaviour()
def both_directions_at_once_arrive_whole():
    import threading
    with Relay() as relay:
        first, second = make_pair(relay)
        errors = []

        def one(sender, receiver):
            try:
                transfer(sender, receiver, 30_000_000)
            except AssertionError as error:
                errors.append(error)

        threads = [threading.Thread(target=one, args=ends)
                   for ends in ((first, second), (second, first))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors, errors


@behaviour()
def a_reader_that_pauses_stops_its_sender_and_no_other_client():
    with Relay() as relay:
        paused = make_pair(relay)
        paused[0].socket.settimeout(1)
        sent = 0
        block = b"x" * 65536
        try:
            while sent < 1 << 30:
                sent += paused[0].socket.send(block)
        except TimeoutError:
            pass
        assert sent < 64 << 20, f"the relay took {sent} bytes that nobody read"
        other = make_pair(relay)
        transfer(other[0], other[1], 20_000_000)
        paused[0].finish()
        count = 0
        while True:
            part = paused[1].socket.recv(1 << 20)
            if not part:
                break
            count += len(part)
        assert count == sent, f"{count} of {sent} bytes arrived"


@behaviour()
def the_two_oks_come_before_any_byte():
    with Relay() as relay:
        for _ in range(50):
            token = new_token()
            first, second = relay.connect(), relay.connect()
            first.send(line(token, new_side()))
            second.send(line(token, new_side()))
            first.expect(b"ok\n").send(b"hello")
            second.expect(b"ok\nhello")
            first.close()
            second.close()


# ---- addresses ------------------------------------------------------------------------


@behaviour()
def it_listens_on_a_unix_socket_and_replaces_a_dead_one():
    import socket
    import tempfile
    from harness import Client
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "relay.sock")
        os.chmod(directory, 0o755)
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
        with Relay(address=f"unix:{path}") as relay:
            wait_until(lambda: "listening" in relay.log(), "the socket")
            token = new_token()
            first = Client(path).send(line(token, new_side()))
            second = Client(path).send(line(token, new_side())).expect(b"ok\n")
            first.expect(b"ok\n")
            exchange(first, second)


if __name__ == "__main__":
    run()
