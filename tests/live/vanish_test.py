"""Peers that vanish silently are closed after about two minutes, and readers that only pause are
not. It runs in a network namespace of its own, in which addresses can be cut off: most of the time
nothing happens there."""

import os
import subprocess
import sys
import threading

from harness import Relay, Skip, behaviour, exchange, line, new_side, new_token, run

INSIDE = "RELAY_VANISH_TEST"
LONG = 240  # seconds of patience, with what takes two minutes
VANISHING = "127.0.0.5"


def pair_from(relay, address):
    """A client that stays, and its peer, from that address."""
    token = new_token()
    ends = relay.connect(LONG, "127.0.0.1"), relay.connect(LONG, address)
    for end in ends:
        end.send(line(token, new_side()))
    for end in ends:
        end.expect(b"ok\n")
    return ends


def cut_off(address):
    """Nothing that is sent there arrives any more."""
    subprocess.run(["ip", "route", "add", "blackhole", address, "table", "local"], check=True)


@behaviour()
def a_client_that_vanished_is_closed_and_a_reader_that_pauses_is_not():
    if INSIDE not in os.environ:
        raise Skip("only root can have a network of its own")
    with Relay() as relay:
        speaker, spoken_to = pair_from(relay, VANISHING)
        listener, silent = pair_from(relay, VANISHING)
        sender, paused = pair_from(relay, "127.0.0.6")
        data = os.urandom(16 << 20)
        thread = threading.Thread(target=sender.send, args=(data,))
        thread.start()
        exchange(speaker, spoken_to)
        exchange(listener, silent)
        cut_off(VANISHING)
        speaker.send(b"is anybody there?")
        speaker.expect_end()
        listener.expect_end()
        relay.wait_for(joined=2, used=2)
        assert paused.receive(len(data)) == data
        thread.join()
        exchange(sender, paused)


if __name__ == "__main__":
    if os.geteuid() == 0 and INSIDE not in os.environ:
        script = 'ip link set lo up && exec "$@"'
        os.execvpe("unshare", ["unshare", "--net", "sh", "-c", script, "sh", sys.executable, *sys.argv],
                   dict(os.environ, **{INSIDE: "1"}))
    run()
