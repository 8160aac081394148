"""The Offset test client is right: it is held against every test vector before anything is held
against it."""

import hashlib
import hmac
import json
import os
import random
import tempfile

import offset_capnp as capnp
from harness import TOP, behaviour, run
from offset_client import (Channel, DirectionKey, Exchange, Identity, Refused, VERSION, base64url,
                           framed, hkdf)

with open(os.path.join(TOP, "tests", "offset-vectors.json"), encoding="utf-8") as vectors_file:
    VECTORS = json.load(vectors_file)


def unhex(text):
    return bytes.fromhex(text)


def identity(name):
    [found] = [one for one in VECTORS["identities"] if one["name"] == name]
    return Identity(unhex(found["seed"]))


def refused(function, *arguments):
    try:
        function(*arguments)
    except (capnp.Invalid, Refused):
        return True
    return False


# ---- keys ------------------------------------------------------------------------------


@behaviour()
def seeds_give_their_public_keys():
    for one in VECTORS["identities"]:
        key = identity(one["name"]).key
        assert key.hex() == one["public_key"], one["name"]
        assert base64url(key) == one["public_key_base64"], one["name"]


@behaviour()
def an_identity_file_is_as_the_original_tools_write_it():
    [expected] = [one["text"] for one in VECTORS["files"] if one["command"] == "gen-ident"]
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "identity")
        identity("relay").write(path)
        with open(path, encoding="ascii") as file:
            assert file.read() == expected


@behaviour()
def digests_are_sha_512_256():
    for one in VECTORS["sha512_256"]["digests"]:
        digest = hashlib.new("sha512_256", unhex(one["data"])).hexdigest()
        assert digest == one["digest"], one["comment"]


@behaviour()
def keys_are_derived_with_hkdf():
    vector = VECTORS["hkdf"]
    salt, secret = unhex(vector["salt"]), unhex(vector["ikm"])
    assert hmac.new(salt, secret, "sha512_256").hexdigest() == vector["prk"]
    assert hkdf(salt, secret).hex() == vector["okm"]


# ---- messages --------------------------------------------------------------------------


@behaviour()
def words_are_packed_and_unpacked():
    for one in VECTORS["packing"]:
        words, packed = unhex(one["unpacked"]), unhex(one["packed"])
        assert capnp.pack(words) == packed, one["comment"]
        assert capnp.Unpacker(packed).read(len(words) // 8) == words, one["comment"]


@behaviour()
def whatever_is_packed_unpacks_to_the_same():
    chance = random.Random(1)
    for _ in range(300):
        density = chance.random()
        words = bytes(chance.randrange(1, 256) if chance.random() < density else 0
                      for _ in range(8 * chance.randrange(1, 600)))
        unpacker = capnp.Unpacker(capnp.pack(words))
        assert unpacker.read(len(words) // 8) == words
        assert unpacker.at == len(unpacker.packed)


def blob(vector, name):
    """Data in a vector; the large ones are said in words."""
    if name in vector:
        return unhex(vector[name])
    size = int(vector[name + "_size"])
    tail = {"message": b"tail", "randPadding": b"\xa5" * 9}[name]
    return bytes(size - len(tail)) + tail


def fields(vector):
    """A vector's fields, as the reader of its struct gives them."""
    kind = vector["struct"]
    if kind == "InitConnection":
        return vector["member"], unhex(vector["publicKey"]) if "publicKey" in vector else None
    if kind in ("IncomingConnection", "RejectConnection"):
        return unhex(vector["publicKey"])
    if kind == "KaMessage":
        return blob(vector, "message") if vector["member"] == "message" else None
    if kind == "ExchangeRandNonce":
        named = vector["optDestPublicKey"]
        return (unhex(vector["randNonce"]), unhex(vector["srcPublicKey"]),
                None if named is None else unhex(named))
    if kind == "ExchangeDh":
        return tuple(unhex(vector[name])
                     for name in ("dhPublicKey", "randNonce", "keySalt", "signature"))
    if vector["member"] == "rekey":
        return (blob(vector, "randPadding"), None,
                (unhex(vector["dhPublicKey"]), unhex(vector["keySalt"])))
    return blob(vector, "randPadding"), unhex(vector["user"]), None


READERS = {
    "InitConnection": capnp.read_init_connection,
    "IncomingConnection": capnp.read_public_key,
    "RejectConnection": capnp.read_public_key,
    "KaMessage": capnp.read_ka_message,
    "ExchangeRandNonce": capnp.read_exchange_rand_nonce,
    "ExchangeDh": capnp.read_exchange_dh,
    "ChannelMessage": capnp.read_channel_message,
}


def written(vector, shape):
    kind, values = vector["struct"], fields(vector)
    if kind == "InitConnection":
        return capnp.write_init_connection(*values, shape())
    if kind in ("IncomingConnection", "RejectConnection"):
        return capnp.write_public_key(values, shape())
    if kind == "KaMessage":
        return capnp.write_ka_message(values, shape())
    if kind == "ExchangeRandNonce":
        return capnp.write_exchange_rand_nonce(*values, shape())
    if kind == "ExchangeDh":
        return capnp.write_exchange_dh(*values, shape())
    return capnp.write_channel_message(*values, shape())


@behaviour()
def every_message_is_read():
    for one in VECTORS["messages"]:
        packed = unhex(one["packed"])
        assert READERS[one["struct"]](packed) == fields(one), one["comment"]
        unpacked = capnp.with_table(capnp.unpack(packed))
        if "unpacked" in one:
            assert unpacked.hex() == one["unpacked"], one["comment"]
        else:
            assert len(unpacked) == one["unpacked_size"], one["comment"]
            assert hashlib.sha256(unpacked).hexdigest() == one["unpacked_sha256"], one["comment"]


# How messages that no writer of ours makes were made: by hand.
BY_HAND = ("A struct larger than known: the rest is ignored",
           "Empty root struct: every field has its default",
           "Message with a null pointer: empty data")


@behaviour()
def every_message_is_written_to_the_byte():
    for one in VECTORS["messages"]:
        if one["comment"] in BY_HAND:
            continue
        shape = capnp.as_the_reference
        if "one object per segment" in one["comment"]:
            shape = capnp.one_object_per_segment
        elif "Double far" in one["comment"]:
            shape = capnp.data_behind_double_far_pointers
        assert written(one, shape).hex() == one["packed"], one["comment"]


@behaviour()
def every_shape_of_a_message_reads_the_same():
    for one in VECTORS["messages"]:
        for shape in capnp.SHAPES:
            packed = written(one, shape)
            assert READERS[one["struct"]](packed) == fields(one), (one["comment"], shape)


@behaviour()
def bytes_that_are_no_message_are_refused():
    for one in VECTORS["invalid_messages"]["cases"]:
        assert refused(READERS[one["struct"]], unhex(one["packed"])), one["comment"]


# ---- the channel -----------------------------------------------------------------------


@behaviour()
def the_version_is_a_frame():
    assert framed(VERSION).hex() == VECTORS["tcp_version_frame"]["tcp"]


def channel(side):
    vector = VECTORS["handshake"][side]
    client = side == "client"
    return Channel(identity("a" if client else "relay"), identity("relay").key if client else None,
                   unhex(vector["rand_nonce"]),
                   Exchange(unhex(vector["x25519_secret"]), unhex(vector["key_salt"])))


def channels():
    client, relay = channel("client"), channel("relay")
    client_dh = client.exchange_dh(relay.exchange_rand_nonce())
    relay_dh = relay.exchange_dh(client.exchange_rand_nonce())
    client.finish(relay_dh)
    relay.finish(client_dh)
    return {"client": client, "relay": relay}


@behaviour("client", "relay")
def the_handshake_is_the_vectors(side):
    vector = VECTORS["handshake"][side]
    other = VECTORS["handshake"]["relay" if side == "client" else "client"]
    end = channel(side)
    assert end.exchange_rand_nonce().hex() == vector["exchange_rand_nonce_packed"]
    assert end.exchange.public.hex() == vector["dh_public_key"]
    answer = end.exchange_dh(unhex(other["exchange_rand_nonce_packed"]))
    assert answer.hex() == vector["exchange_dh_packed"]
    assert capnp.read_exchange_dh(answer)[3].hex() == vector["signature"]
    end.finish(unhex(other["exchange_dh_packed"]))
    secret = end.exchange.secret(unhex(other["dh_public_key"]))
    assert secret.hex() == VECTORS["handshake"]["shared_secret"]
    to_relay, to_client = (VECTORS["handshake"][name]
                           for name in ("key_client_to_relay", "key_relay_to_client"))
    keys = (end.sending.key.hex(), end.receiving.key.hex())
    assert keys == ((to_relay, to_client) if side == "client" else (to_client, to_relay))


@behaviour()
def frames_are_the_vectors():
    ends = channels()
    for one in VECTORS["frames"]["list"]:
        sender, receiver = ends[one["from"]], ends["relay" if one["from"] == "client" else "client"]
        assert sender.sending.key.hex() == one["key"]
        assert sender.sending.nonce().hex() == one["nonce"]
        ka_message = unhex(one["ka_message_packed"])
        for name, read, write in (
                ("init_connection_packed", capnp.read_init_connection,
                 capnp.write_init_connection),
                ("reject_connection_packed", capnp.read_public_key, capnp.write_public_key),
                ("incoming_connection_packed", capnp.read_public_key, capnp.write_public_key)):
            if name in one:
                message = capnp.read_ka_message(ka_message)
                assert message.hex() == one[name], one["comment"]
                values = read(message)
                values = values if isinstance(values, tuple) else (values,)
                assert write(*values) == message, one["comment"]
        frame = sender.seal(ka_message, unhex(one["padding"]))
        assert frame.hex() == one["frame"], one["comment"]
        assert framed(frame).hex() == one["tcp"], one["comment"]
        assert receiver.open(frame) == (ka_message, None), one["comment"]


@behaviour()
def a_rekey_is_the_vectors():
    vector = VECTORS["rekey"]
    ends = channels()
    for one in VECTORS["frames"]["list"]:
        sender, receiver = ends[one["from"]], ends["relay" if one["from"] == "client" else "client"]
        receiver.open(sender.seal(unhex(one["ka_message_packed"]), unhex(one["padding"])))
    client, relay = ends["client"], ends["relay"]
    exchanges = {side: Exchange(unhex(vector[side]["x25519_secret"]),
                                unhex(vector[side]["key_salt"])) for side in ends}
    for side, exchange in exchanges.items():
        assert exchange.public.hex() == vector[side]["dh_public_key"]
    begin, waiting, answer, first_of_relay, first_of_client = vector["list"]

    frame = client.begin_rekey(exchanges["client"])
    assert frame.hex() == begin["frame"]
    user, rekey = relay.open(frame)
    assert user is None
    reply = relay.complete_rekey(rekey, exchanges["relay"])
    assert reply.hex() == answer["frame"]

    def sent(one, sender, receiver):
        assert sender.sending.key.hex() == one["key"], one["comment"]
        message = unhex(one["ka_message_packed"])
        frame = sender.seal(message)
        assert frame.hex() == one["frame"], one["comment"]
        assert framed(frame).hex() == one["tcp"], one["comment"]
        assert receiver.open(frame) == (message, None), one["comment"]

    sent(waiting, client, relay)
    user, rekey = client.open(reply)
    assert user is None and client.complete_rekey(rekey) is None, "an answer is not answered"
    sent(first_of_relay, relay, client)
    sent(first_of_client, client, relay)
    assert relay.old_receiving is None and client.old_receiving is None
    assert client.sending.key.hex() == vector["key_client_to_relay"]
    assert relay.sending.key.hex() == vector["key_relay_to_client"]


@behaviour()
def rekeys_that_cross_complete_without_an_answer():
    ends = channels()
    client, relay = ends["client"], ends["relay"]
    for _ in range(3):
        to_relay, to_client = [client.begin_rekey()], [relay.begin_rekey()]
        to_relay += [client.seal(b"old, of the client") for _ in range(3)]
        to_client += [relay.seal(b"old, of the relay") for _ in range(5)]
        for end, frames in ((relay, to_relay), (client, to_client)):
            _, rekey = end.open(frames[0])
            assert end.complete_rekey(rekey) is None
            for frame in frames[1:]:
                assert end.open(frame)[0].startswith(b"old")
        for sender, receiver in ((client, relay), (relay, client)):
            assert receiver.open(sender.seal(b"new")) == (b"new", None)


@behaviour()
def frames_changed_dropped_replayed_or_out_of_order_are_refused():
    key = os.urandom(32)
    sender = DirectionKey(key)
    frames = [sender.seal(text) for text in (b"one", b"two", b"three")]
    receiver = DirectionKey(key)
    for bit in range(8 * len(frames[0])):
        changed = bytearray(frames[0])
        changed[bit // 8] ^= 1 << bit % 8
        assert receiver.open(bytes(changed)) is None
    assert receiver.open(frames[1]) is None
    assert receiver.open(frames[0][:-1]) is None
    assert receiver.open(frames[0][:11]) is None
    assert receiver.open(frames[0]) == b"one"
    assert receiver.open(frames[0]) is None
    assert receiver.open(frames[2]) is None
    assert receiver.open(frames[1]) == b"two"


@behaviour()
def another_identity_or_signature_is_refused():
    client = channel("client")
    stranger = Channel(Identity())
    assert refused(client.exchange_dh, stranger.exchange_rand_nonce())
    impostor = Channel(identity("relay"))
    client.exchange_dh(impostor.exchange_rand_nonce())
    impostor.identity = Identity()  # it cannot sign as the relay
    assert refused(client.finish, impostor.exchange_dh(client.exchange_rand_nonce()))


if __name__ == "__main__":
    run()
