"""What is in the runtime directory, and the directory itself, may be removed at any time, as a cleaner
of /tmp does, or a person who tidies up: pairs go on, and newcomers are served as before."""

import contextlib
import os
import shutil
import signal

from harness import (PATIENCE, Relay, behaviour, can_pair, exchange, line, make_pair, new_side,
                     new_token, run, wait_until)


def remove_the_socket(relay):
    os.unlink(f"{relay.runtime}/forward.sock")


def replace_the_socket(relay):
    path = f"{relay.runtime}/forward.sock"
    with open(path + ".new", "wb"):
        pass
    os.rename(path + ".new", path)


def remove_all_in_it(relay):
    for name in os.listdir(relay.runtime):
        os.unlink(f"{relay.runtime}/{name}")


def remove_it(relay):
    shutil.rmtree(relay.runtime)


LOSSES = {"the socket": remove_the_socket, "the socket, replaced": replace_the_socket,
          "all that is in it": remove_all_in_it, "the directory": remove_it}


def is_served(relay):
    try:
        with relay.connect() as client:
            client.send(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n").expect(b"HTTP/1.1 200")
        return can_pair(relay)
    except (AssertionError, OSError):
        return False


def lose_and_be_served(relay, loss):
    first, second = make_pair(relay)
    with first, second:
        exchange(first, second)
        LOSSES[loss](relay)
        wait_until(lambda: is_served(relay), "newcomers are served", patience=30)
        for _ in range(3):
            assert is_served(relay)
        exchange(first, second)
    wait_until(lambda: os.path.exists(f"{relay.runtime}/forward.sock"), "the socket's name")
    assert "signal 31" not in relay.log(), relay.log()


@contextlib.contextmanager
def running(how):
    """Where the user that relay runs as may make the directory anew."""
    runtime = f"/tmp/relay-test-run-{os.getpid()}"
    try:
        with Relay(how, [f"--runtime-dir={runtime}"]) as relay:
            relay.runtime = runtime
            yield relay
    finally:
        shutil.rmtree(runtime, ignore_errors=True)


@behaviour(*[f"{how}, {loss}" for how in ("serve", "accept") for loss in LOSSES])
def newcomers_are_served_after_the_loss_of(variant):
    how, loss = variant.split(", ", 1)
    with running(how) as relay:
        lose_and_be_served(relay, loss)
        lose_and_be_served(relay, loss)
        relay.wait_for(used=0)
        if how == "serve":
            first, second = make_pair(relay)
            os.kill(relay.process.pid, signal.SIGTERM)
            first.expect_end()
            assert relay.process.wait(PATIENCE) == 0


@behaviour()
def a_server_that_may_not_make_its_directory_anew_ends_with_status_1_and_no_pair_with_it():
    with Relay() as relay:
        first, second = make_pair(relay)
        with first, second:
            exchange(first, second)
            shutil.rmtree(relay.runtime)
            with relay.connect():
                assert relay.process.wait(PATIENCE) == 1, relay.log()
            assert relay.log().count("cannot make the runtime directory") == 1, relay.log()
            exchange(first, second)


@behaviour()
def a_second_server_goes_on_with_a_forwarder_of_its_own_when_the_directory_is_lost():
    with running("serve") as relay, Relay("serve", [f"--runtime-dir={relay.runtime}"]) as second:
        second.runtime = relay.runtime
        exchange(*make_pair(second))
        shutil.rmtree(relay.runtime)
        for each in (second, relay):
            wait_until(lambda: is_served(each), "newcomers are served", patience=30)
        one, other = relay.connect(), second.connect()
        with one, other:
            token = new_token()
            for client in (one, other):
                client.send(line(token, new_side()))
            for client in (one, other):
                client.expect(b"ok\n")
            exchange(one, other)


if __name__ == "__main__":
    run()
