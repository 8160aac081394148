"""The protocol that CONTRIBUTING.md adds as an example, built and run as it is written there."""

import atexit
import functools
import os
import re
import shutil
import subprocess
import tempfile
import textwrap

import harness
from harness import TOP, Relay, behaviour, exchange, make_pair, run
from web_protocols import receive_bytes
from websocket_client import WebSocket


def code_blocks():
    """Of the section "Add a protocol": the file, and the line for protocol.h."""
    with open(os.path.join(TOP, "CONTRIBUTING.md"), encoding="utf-8") as file:
        section = re.search(r"^## Add a protocol\n(.*?)(?=^## |\Z)", file.read(), re.M | re.S)[1]
    blocks = re.findall(r"^ *```c\n(.*?)^ *```$", section, re.M | re.S)
    assert len(blocks) == 2, f"{len(blocks)} code blocks"
    source, line = blocks
    return textwrap.dedent(source), line


def copy_with_toy(directory):
    """The tree, and the toy protocol in it."""
    source, line = code_blocks()
    shutil.copytree(TOP, directory, symlinks=True, ignore=shutil.ignore_patterns("build*", ".git"))
    with open(os.path.join(directory, "proto/meet.c"), "x", encoding="ascii") as file:
        file.write(source)
    with open(os.path.join(directory, "protocol.h"), "r+", encoding="ascii") as file:
        before, web, after = file.read().partition("    PROTOCOL(1, WEB, web)")
        assert web, "protocol.h has no line for WEB"
        file.seek(0)
        file.write(before + line + web + after)


@functools.cache
def built():
    """The path of a relay with the toy protocol."""
    parent = tempfile.mkdtemp(prefix="relay-toy-")
    atexit.register(shutil.rmtree, parent)
    os.chmod(parent, 0o755)
    directory = os.path.join(parent, "relay")
    copy_with_toy(directory)
    subprocess.run(["make", "-j2", "BUILD=build", "CFLAGS=-O1 -Werror"], cwd=directory, check=True,
                   stdout=subprocess.DEVNULL)
    return os.path.join(directory, "build/relay")


def start():
    harness.RELAY = built()
    return Relay()


@behaviour()
def two_clients_meet_by_a_line_beside_a_pair_of_transit():
    with start() as relay:
        transit = make_pair(relay)
        first, second = relay.connect(), relay.connect()
        first.send(b"MEET in the middle\n")
        second.send(b"MEET in the middle\n").expect(b"MET\n")
        first.expect(b"MET\n")
        exchange(first, second)
        exchange(*transit)
        for client in (first, second, *transit):
            client.close()
        relay.wait_for_outcomes("meet", happy=1)
        relay.wait_for_outcomes("transit", happy=1)


@behaviour()
def a_key_may_look_like_the_path_of_a_request():
    with start() as relay:
        first, second = relay.connect(), relay.connect()
        first.send(b"MEET /key HTTP/1.1\n")
        second.send(b"MEET /key HTTP/1.1\n").expect(b"MET\n")
        first.expect(b"MET\n")


@behaviour()
def the_first_text_message_of_a_websocket_is_recognised_as_well():
    with start() as relay:
        first = WebSocket(relay).send_text("MEET in the middle")
        second = relay.connect().send(b"MEET in the middle\n").expect(b"MET\n")
        first.expect_text("MET\n")
        second.send(b"from TCP")
        assert receive_bytes(first, 8) == b"from TCP"
        first.send_binary(b"from WebSocket")
        second.expect(b"from WebSocket")


@behaviour()
def a_line_that_is_no_meeting_is_refused():
    with start() as relay:
        for words in (b"MEET \n", b"MEET " + bytes(200), b"MEET key\nearly"):
            relay.connect().send(words).expect(b"NO\n")
        WebSocket(relay).send_text("MEET ").expect_text("NO\n")
        WebSocket(relay).send_text("MEAT key").expect_close(1002, "Bad hello json")


@behaviour()
def the_toy_keeps_to_the_layers():
    subprocess.run(["tests/layers"], cwd=os.path.dirname(os.path.dirname(built())), check=True)


if __name__ == "__main__":
    run()
