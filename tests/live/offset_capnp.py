"""Offset's messages in Cap'n Proto's packed stream form, written and read by the book and without
the relay's code. What is written has the shape that the reference's writer gives it, or one of the
rarer shapes that are just as legal; whatever is legal is read."""

import bisect
import re
import struct

FIRST_SEGMENT = 1024  # words; the reference's
MAX_SEGMENTS = 512
MAX_WORDS = 8 << 20
NULL = bytes(8)


class Invalid(Exception):
    """These bytes are no such message."""


# ---- packing ---------------------------------------------------------------------------


def pack(words):
    """As the usual packer does: words with at most one zero byte go into a verbatim run."""
    count = len(words) // 8
    zeros = {}  # word: how many of its bytes are zero
    for match in re.finditer(rb"\0+", words):
        for at in range(match.start(), match.end()):
            zeros[at >> 3] = zeros.get(at >> 3, 0) + 1
    breaks = sorted(word for word, number in zeros.items() if number > 1)
    packed = bytearray()
    at = 0
    while at < count:
        word = words[at * 8:at * 8 + 8]
        number = zeros.get(at, 0)
        tag = sum(1 << i for i in range(8) if word[i]) if number else 0xFF
        packed.append(tag)
        packed += word if tag == 0xFF else word.translate(None, b"\0")
        at += 1
        if tag == 0:
            end = at
            while end < min(count, at + 255) and zeros.get(end) == 8:
                end += 1
            packed.append(end - at)
            at = end
        elif tag == 0xFF:
            found = bisect.bisect_left(breaks, at)
            end = min(count, at + 255, breaks[found] if found < len(breaks) else count)
            packed.append(end - at)
            packed += words[at * 8:end * 8]
            at = end
    return bytes(packed)


class Unpacker:
    """Packed bytes, of which as many words are read as are asked for. No run may reach beyond."""

    def __init__(self, packed):
        self.packed = packed
        self.at = 0

    def take(self, size):
        part = self.packed[self.at:self.at + size]
        if len(part) < size:
            raise Invalid("truncated")
        self.at += size
        return part

    def read(self, count):
        words = bytearray()
        while len(words) < count * 8:
            tag = self.take(1)[0]
            if tag == 0xFF:
                words += self.take(8)
                words += self.take(8 * self.take(1)[0])
            elif tag == 0:
                words += bytes(8 + 8 * self.take(1)[0])
            else:
                present = iter(self.take(bin(tag).count("1")))
                words += bytes(next(present) if tag >> i & 1 else 0 for i in range(8))
        if len(words) > count * 8:
            raise Invalid("a run beyond the end")
        return bytes(words)


def unpack(packed):
    """The segments of a message."""
    source = Unpacker(packed)
    first = source.read(1)
    count = struct.unpack("<I", first[:4])[0] + 1
    if count >= MAX_SEGMENTS:
        raise Invalid("too many segments")
    table = first + source.read(count // 2)
    sizes = struct.unpack(f"<{count}I", table[4:4 + 4 * count])
    if sum(sizes) > MAX_WORDS:
        raise Invalid("too large")
    words = source.read(sum(sizes))
    segments, at = [], 0
    for size in sizes:
        segments.append(words[at * 8:(at + size) * 8])
        at += size
    return segments


def with_table(segments):
    table = struct.pack(f"<{len(segments) + 1}I", len(segments) - 1,
                        *(len(segment) // 8 for segment in segments))
    return table + bytes(-len(table) % 8) + b"".join(segments)


# ---- writing ---------------------------------------------------------------------------


class Writer:
    """Objects are placed one behind the other. One that does not fit its pointer's segment goes
    to the next, behind a landing pad (or a double one, in a segment of its own)."""

    def __init__(self, first=FIRST_SEGMENT, growing=True, double_far=False):
        self.segments = [bytearray(NULL)]
        self.capacities = [first]
        self.next_capacity = 2 * first if growing else 0
        self.double_far = double_far

    def _new_segment(self, words):
        capacity = max(words, self.next_capacity)
        if self.next_capacity:
            self.next_capacity += capacity
        self.segments.append(bytearray())
        self.capacities.append(capacity)
        return len(self.segments) - 1

    def _room(self, segment):
        return self.capacities[segment] - len(self.segments[segment]) // 8

    def _put(self, segment, word, low, high):
        self.segments[segment][word * 8:word * 8 + 8] = struct.pack("<iI", low, high)

    def _append(self, segment, words):
        at = len(self.segments[segment]) // 8
        self.segments[segment] += bytes(8 * words)
        return at

    def _place(self, pointer, words, kind, high):
        segment, word = pointer
        if self.double_far and kind == 1:
            pad = self._new_segment(2)
            self._append(pad, 2)
            target = self._new_segment(words)
            self._put(segment, word, 6, pad)
            self._put(pad, 0, 2, target)
            self._put(pad, 1, kind, high)
            return target, self._append(target, words)
        if words <= self._room(segment):
            at = self._append(segment, words)
            self._put(segment, word, (at - word - 1) << 2 | kind, high)
            return segment, at
        target = len(self.segments) - 1
        if words + 1 > self._room(target):
            target = self._new_segment(words + 1)
        pad = self._append(target, words + 1)
        self._put(segment, word, pad << 3 | 2, target)
        self._put(target, pad, kind, high)
        return target, pad + 1

    def struct(self, pointer, data, pointers):
        """Places a struct of so many words and pointers, and returns where each word of it is."""
        segment, at = self._place(pointer, data + pointers, 0, data | pointers << 16)
        return [(segment, at + i) for i in range(data + pointers)]

    def data(self, pointer, content):
        segment, at = self._place(pointer, (len(content) + 7) // 8, 1, len(content) << 3 | 2)
        self.segments[segment][at * 8:at * 8 + len(content)] = content

    def fixed(self, pointer, content):
        """A byte string of fixed size: a struct around a struct of big-endian numbers."""
        [inner] = self.struct(pointer, 0, 1)
        words = self.struct(inner, len(content) // 8, 0)
        for i, (segment, word) in enumerate(words):
            self.segments[segment][word * 8:word * 8 + 8] = content[i * 8:i * 8 + 8][::-1]

    def member(self, word, number):
        segment, at = word
        self.segments[segment][at * 8:at * 8 + 2] = struct.pack("<H", number)

    def packed(self):
        return pack(with_table(self.segments))


ROOT = (0, 0)


def as_the_reference():
    return Writer()


def in_one_segment():
    return Writer(first=MAX_WORDS)


def one_object_per_segment():
    return Writer(first=1, growing=False)


def data_behind_double_far_pointers():
    return Writer(double_far=True)


SHAPES = (as_the_reference, in_one_segment, one_object_per_segment, data_behind_double_far_pointers)


# ---- reading ---------------------------------------------------------------------------


class Struct:
    """A struct in a message; what it does not have reads as zero."""

    def __init__(self, segments, segment=0, at=0, data=0, pointers=0):
        self.segments = segments
        self.segment, self.at = segment, at
        self.data_words, self.pointers = data, pointers

    def _word(self, segment, at):
        if segment >= len(self.segments):
            raise Invalid("no such segment")
        word = self.segments[segment][at * 8:at * 8 + 8]
        if at < 0 or len(word) < 8:
            raise Invalid("outside its segment")
        return word

    def _follow(self, segment, at, kind):
        """What the pointer at this word leads to: its segment and first word, and the upper half
        of the pointer that describes it. None: a null pointer."""
        word = self._word(segment, at)
        if word == NULL:
            return None
        low, high = struct.unpack("<iI", word)
        if low & 3 == 2:
            unsigned = low & 0xFFFFFFFF
            segment, at = high, unsigned >> 3
            word = self._word(segment, at)
            low, high = struct.unpack("<iI", word)
            if unsigned & 4:
                if low & 7 != 2:
                    raise Invalid("no double landing pad")
                tag, description = struct.unpack("<iI", self._word(segment, at + 1))
                if tag != kind:
                    raise Invalid("another kind of object")
                return high, (low & 0xFFFFFFFF) >> 3, description
        if low & 3 != kind:
            raise Invalid("another kind of pointer")
        return segment, at + 1 + (low >> 2), high

    def _check(self, segment, at, words):
        if segment >= len(self.segments):
            raise Invalid("no such segment")
        if at < 0 or (at + words) * 8 > len(self.segments[segment]):
            raise Invalid("outside its segment")

    def _struct_at(self, segment, at):
        found = self._follow(segment, at, 0)
        if found is None:
            return Struct(self.segments)
        segment, at, high = found
        data, pointers = high & 0xFFFF, high >> 16
        self._check(segment, at, data + pointers)
        return Struct(self.segments, segment, at, data, pointers)

    def root(self):
        return self._struct_at(0, 0)

    def struct(self, number):
        if number >= self.pointers:
            return Struct(self.segments)
        return self._struct_at(self.segment, self.at + self.data_words + number)

    def data(self, number):
        if number >= self.pointers:
            return b""
        found = self._follow(self.segment, self.at + self.data_words + number, 1)
        if found is None:
            return b""
        segment, at, high = found
        if high & 7 != 2:
            raise Invalid("a list of another type")
        size = high >> 3
        self._check(segment, at, (size + 7) // 8)
        return self.segments[segment][at * 8:at * 8 + size]

    def fixed(self, number, size):
        words = self.struct(number).struct(0)
        start = words.at * 8
        have = min(size // 8, words.data_words)
        stored = self.segments[words.segment][start:start + have * 8] if have else b""
        return b"".join(stored[i:i + 8][::-1] for i in range(0, len(stored), 8)).ljust(size, b"\0")

    def member(self, *names):
        number = 0
        if self.data_words:
            number = struct.unpack("<H", self._word(self.segment, self.at)[:2])[0]
        if number >= len(names):
            raise Invalid("an unknown member")
        return names[number]


def root_of(packed):
    return Struct(unpack(packed)).root()


# ---- the messages ----------------------------------------------------------------------


def write_init_connection(member, key=None, writer=None):
    writer = writer or Writer()
    word, pointer = writer.struct(ROOT, 1, 1)
    writer.member(word, ("listen", "accept", "connect").index(member))
    if key is not None:
        writer.fixed(pointer, key)
    return writer.packed()


def read_init_connection(packed):
    root = root_of(packed)
    member = root.member("listen", "accept", "connect")
    return member, None if member == "listen" else root.fixed(0, 32)


def write_public_key(key, writer=None):
    """IncomingConnection and RejectConnection."""
    writer = writer or Writer()
    [pointer] = writer.struct(ROOT, 0, 1)
    writer.fixed(pointer, key)
    return writer.packed()


def read_public_key(packed):
    return root_of(packed).fixed(0, 32)


def write_ka_message(message=None, writer=None):
    """Without a message: keepAlive."""
    writer = writer or Writer()
    word, pointer = writer.struct(ROOT, 1, 1)
    if message is not None:
        writer.member(word, 1)
        writer.data(pointer, message)
    return writer.packed()


def read_ka_message(packed):
    root = root_of(packed)
    return root.data(0) if root.member("keepAlive", "message") == "message" else None


def write_exchange_rand_nonce(nonce, source, destination=None, writer=None):
    writer = writer or Writer()
    word, nonce_at, source_at, destination_at = writer.struct(ROOT, 1, 3)
    writer.member(word, 0 if destination is None else 1)
    writer.fixed(nonce_at, nonce)
    writer.fixed(source_at, source)
    if destination is not None:
        writer.fixed(destination_at, destination)
    return writer.packed()


def read_exchange_rand_nonce(packed):
    root = root_of(packed)
    named = root.member("empty", "publicKey") == "publicKey"
    return root.fixed(0, 16), root.fixed(1, 32), root.fixed(2, 32) if named else None


def write_exchange_dh(dh_public_key, nonce, salt, signature, writer=None):
    writer = writer or Writer()
    for pointer, content in zip(writer.struct(ROOT, 0, 4),
                                (dh_public_key, nonce, salt, signature)):
        writer.fixed(pointer, content)
    return writer.packed()


def read_exchange_dh(packed):
    root = root_of(packed)
    return root.fixed(0, 32), root.fixed(1, 16), root.fixed(2, 32), root.fixed(3, 64)


def write_channel_message(padding, user=None, rekey=None, writer=None):
    """With data of the user, or else a rekey: its public key and salt."""
    writer = writer or Writer()
    padding_at, content_at = writer.struct(ROOT, 0, 2)
    writer.data(padding_at, padding)
    word, pointer = writer.struct(content_at, 1, 1)
    if rekey is None:
        writer.member(word, 1)
        writer.data(pointer, user)
    else:
        for part, content in zip(writer.struct(pointer, 0, 2), rekey):
            writer.fixed(part, content)
    return writer.packed()


def read_channel_message(packed):
    """Padding, data of the user or None, rekey or None."""
    root = root_of(packed)
    content = root.struct(1)
    if content.member("rekey", "user") == "user":
        return root.data(0), content.data(0), None
    rekey = content.struct(0)
    return root.data(0), None, (rekey.fixed(0, 32), rekey.fixed(1, 32))
