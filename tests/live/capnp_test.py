#!/usr/bin/python3
"""Offset's messages beside Cap'n Proto's own tool: what it writes goes through relay's reader and
writer, and is then read by it again.

The schema, tests/offset.capnp, is ours, made of the published layouts."""

import os
import random
import shutil
import subprocess

from harness import RELAY, TOP, Skip, behaviour, run

SCHEMA = os.path.join(TOP, "tests", "offset.capnp")
PASS = os.path.join(os.path.dirname(RELAY), "tests", "capnp_tool")


def capnp(*arguments, data):
    tool = shutil.which("capnp")
    if tool is None:
        raise Skip("capnp is not installed")
    return subprocess.run([tool, *arguments], input=data, stdout=subprocess.PIPE, check=True).stdout


def encode(struct, text, *options):
    return capnp("encode", "--packed", *options, SCHEMA, struct, data=text.encode())


def decode(struct, packed):
    return capnp("decode", "--packed", "--short", SCHEMA, struct, data=packed).decode()


def through_relay(struct, packed):
    return subprocess.run([PASS, struct], input=packed, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, check=False)


def words(count):
    """A byte string of fixed size, in some of whose words there are zero bytes."""
    names = "abcdefgh"[:count]
    numbers = [random.choice((0, 1 << 40, random.getrandbits(64))) for _ in names]
    return "(words = (" + ", ".join(f"{n} = {v}" for n, v in zip(names, numbers)) + "))"


def data(size):
    """Data that packs in all ways: zeros, sparse, dense, and not a whole number of words."""
    block = bytes(64) + bytes([1, 0, 0, 0, 0, 0, 0, 2]) * 8 + random.randbytes(2500)
    content = (block * (size // len(block) + 1))[:size]
    return '"' + "".join(f"\\x{byte:02x}" for byte in content) + '"'


def expect_same(struct, text, *options):
    packed = encode(struct, text, *options)
    result = through_relay(struct, packed)
    assert result.returncode == 0, f"{struct} {text[:60]}: {result.stderr.decode()}"
    expected, got = decode(struct, packed), decode(struct, result.stdout)
    assert expected == got, f"{struct}: {expected[:200]} became {got[:200]}"
    return result.stdout


def messages():
    key, nonce, signature = words(4), words(2), words(8)
    yield "InitConnection", "(listen = void)"
    yield "InitConnection", f"(accept = {key})"
    yield "InitConnection", f"(connect = {key})"
    yield "IncomingConnection", f"(publicKey = {key})"
    yield "RejectConnection", f"(publicKey = {key})"
    yield "KaMessage", "(keepAlive = void)"
    for size in (0, 1, 8, 9, 2048, 5000, 70000):
        yield "KaMessage", f"(message = {data(size)})"
        yield "ChannelMessage", f'(randPadding = "pad", content = (user = {data(size)}))'
    yield "ExchangeRandNonce", f"(randNonce = {nonce}, srcPublicKey = {key}, dest = (empty = void))"
    yield ("ExchangeRandNonce",
           f"(randNonce = {nonce}, srcPublicKey = {key}, dest = (publicKey = {words(4)}))")
    yield ("ExchangeDh", f"(dhPublicKey = {key}, randNonce = {nonce}, keySalt = {words(4)}, "
                         f"signature = {signature})")
    yield ("ChannelMessage", f'(randPadding = "pad", content = '
                             f"(rekey = (dhPublicKey = {key}, keySalt = {words(4)})))")


@behaviour()
def what_the_tool_writes_in_one_segment_is_read_and_written_again():
    for struct, text in messages():
        expect_same(struct, text)


@behaviour(1, 4, 16, 1024)
def what_the_tool_writes_in_small_segments_is_read(segment):
    for struct, text in messages():
        expect_same(struct, text, f"--segment-size={segment}")


@behaviour()
def small_messages_are_written_to_the_byte_as_the_tool_writes_them():
    for struct, text in messages():
        if struct.startswith("Exchange") or "key" in text or len(text) < 60:
            written = expect_same(struct, text)
            assert written == encode(struct, text), f"{struct} {text}: {written.hex()}"


@behaviour()
def padding_of_any_size_is_skipped():
    for size in (0, 1, 255, 256, 8192, 65535):
        content = f"content = (user = {data(100)})"
        packed = encode("ChannelMessage", f"(randPadding = {data(size)}, {content})")
        result = through_relay("ChannelMessage", packed)
        assert result.returncode == 0, result.stderr.decode()
        expected = encode("ChannelMessage", f'(randPadding = "pad", {content})')
        assert decode("ChannelMessage", result.stdout) == decode("ChannelMessage", expected)


@behaviour()
def another_kind_of_message_is_refused():
    packed = encode("IncomingConnection", f"(publicKey = {words(4)})")
    assert through_relay("IncomingConnection", packed).returncode == 0
    packed = encode("KaMessage", '(message = "not a structure")')
    assert through_relay("InitConnection", packed).returncode == 1


if __name__ == "__main__":
    run()
