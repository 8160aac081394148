"""The log: it delays no client, it ends no process, and no client can fill it."""

import contextlib
import fcntl
import os
import re
import subprocess
import tempfile

from harness import (PATIENCE, RELAY, Client, Relay, behaviour, exchange, free_port, line, make_pair,
                     new_token, run, wait_until)
from websocket_client import WebSocket, frame

REFUSALS = 200


class Piped:
    """`relay serve` whose standard error is a pipe."""

    def __init__(self, *options):
        self.port = free_port()
        self.reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        self.directory = tempfile.TemporaryDirectory(prefix="relay-log-")
        os.chmod(self.directory.name, 0o755)
        self.process = subprocess.Popen(
            [RELAY, "serve", f"--listen=127.0.0.1:{self.port}", *options,
             f"--runtime-dir={self.directory.name}/run", f"--state-dir={self.directory.name}/state"],
            stdin=subprocess.DEVNULL, stdout=writer, stderr=writer)
        os.close(writer)
        text = b""
        while b"listening" not in text:
            part = os.read(self.reader, 4096)
            assert part, f"the relay ended: {text}"
            text += part

    def connect(self, patience=PATIENCE):
        return Client(("127.0.0.1", self.port), patience)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.process.terminate()
        assert self.process.wait(PATIENCE) == 0
        with contextlib.suppress(OSError):
            os.close(self.reader)
        self.directory.cleanup()


def refuse(relay):
    """A client sends what no protocol has, and is closed."""
    with relay.connect() as client:
        client.send(b"GARBAGE\n")
        while client.receive_some(1000):
            pass


@behaviour()
def a_log_that_is_not_read_delays_no_client_and_later_counts_its_lost_lines():
    with Piped("--debug") as relay:
        pair = make_pair(relay)
        for _ in range(REFUSALS):  # each is a line at this level, and a few dozen fill the pipe
            refuse(relay)
        for number in range(60):
            WebSocket(relay, f"/introduction/peer{number}").send(frame(3, b"of no use"))
        exchange(*pair)
        exchange(*make_pair(relay))
        text = b""
        os.set_blocking(relay.reader, False)

        def said():
            nonlocal text
            refuse(relay)
            with contextlib.suppress(BlockingIOError):
                text += os.read(relay.reader, 1 << 16)
            return re.search(rb"relay: \d+ lines of this log were lost", text)

        wait_until(said, "the log to say that lines were lost")
        assert all(part.startswith(b"relay: ") for part in text.splitlines()), text
        exchange(*pair)


@behaviour()
def a_log_whose_reader_has_gone_ends_no_process():
    with Piped("--debug") as relay:
        pair = make_pair(relay)
        os.close(relay.reader)
        for _ in range(10):
            refuse(relay)
        WebSocket(relay, "/introduction/peer").send(frame(3, b"of no use"))
        exchange(*pair)
        exchange(*make_pair(relay))
        assert relay.process.poll() is None


def counted(text, words):
    """How many lines say these words, and how often they say that it was so."""
    lines = [part for part in text.splitlines() if words in part]
    return len(lines), sum(int((re.search(r"\((\d+) times", part) or [0, 1])[1]) for part in lines)


def log_to_the_end(relay, work):
    """Everything that the relay logs, and what `work` returns."""
    with open(relay.log_path, encoding="utf-8") as file:
        with relay:
            work()
        return file.read()


def expect_summed(text, words, times):
    lines, sum_of_all = counted(text, words)
    assert sum_of_all == times, f"{sum_of_all} of {times}: {text[-1000:]}"
    assert lines <= 4, f"{lines} lines: {text[-1000:]}"


@behaviour("serve", "accept")
def refusals_are_one_line_with_a_count_over_all_processes(how):
    relay = Relay(how)

    def work():
        pair = make_pair(relay)  # and its forwarder stays
        for _ in range(REFUSALS):
            refuse(relay)
        exchange(*pair)

    expect_summed(log_to_the_end(relay, work), "refused a connection (transit): a bad handshake", REFUSALS)


@behaviour()
def breaches_that_the_forwarder_sees_are_one_line_with_a_count():
    relay = Relay()

    def work():
        for number in range(REFUSALS):
            client = WebSocket(relay, f"/introduction/peer{number}")
            client.send(frame(3, b"of no use"))
            client.receive_some(1000)

    expect_summed(log_to_the_end(relay, work), "what it sent breaks the protocol", REFUSALS)


@behaviour("--max-connections=2", "--per-source=2")
def connections_without_room_are_one_line_with_a_count(option):
    relay = Relay(options=[option])

    def work():
        waiting = [relay.connect().send(line(new_token())) for _ in range(2)]
        relay.wait_for(waiting=2)
        for _ in range(REFUSALS):
            with relay.connect() as client:
                client.send(b"please").expect_end()
        for client in waiting:
            client.close()

    words = "its source has as many as one may have" if "source" in option else "there is no room for more"
    expect_summed(log_to_the_end(relay, work), words, REFUSALS)


@behaviour()
def at_debug_level_each_refusal_is_logged():
    relay = Relay(options=["--debug"])

    def work():
        for _ in range(10):
            refuse(relay)

    lines, _ = counted(log_to_the_end(relay, work), "refused a connection (transit): a bad handshake")
    assert lines == 10, lines


if __name__ == "__main__":
    run()
