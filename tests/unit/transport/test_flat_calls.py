"""What goes flat is written byte by byte as the tagged codec writes it, and read as it reads it; all else is left to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some

from shardwright.transport import ClassTable, TaggedCodec, shm

if not shm.available():
    pytest.skip("the C extension was not built", allow_module_level=True)
from shardwright.transport.shm import _ring

WRITES, READS = TaggedCodec(ClassTable((), lambda name: object)).forms
FLAT = some.one_of(
    some.none(), some.booleans(), some.integers(-(2**63), 2**63 - 1), some.floats(), some.binary(max_size=127),
    some.text(some.characters(exclude_categories=["Cs"]), max_size=31),
)  # fmt: skip
ANY = some.one_of(
    FLAT, some.integers(), some.binary(max_size=300), some.text(max_size=200), some.tuples(FLAT), some.lists(FLAT, max_size=2),
    some.dictionaries(some.text(max_size=3), FLAT, max_size=2), some.complex_numbers(), some.just(...),
)  # fmt: skip


class Number(IntEnum):
    ONE = 1


class Text(str):
    pass


def alike(one: Any, other: Any) -> bool:
    """Equal, of equal types, NaN and the sign of zero included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float):
        return math.copysign(1, one) == math.copysign(1, other) and (one == other or one != one)
    return bool(one == other)


@given(some.lists(FLAT, max_size=64).map(tuple))
@example(())
@example((-129, -128, 127, 128, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**63 - 1, -(2**63)))
@example((math.nan, -0.0, math.inf, True, False, None, "", b"", "x" * 127, b"y" * 127))
@settings(max_examples=300)
def test_flat_requests_are_the_codecs(args: tuple[Any, ...]) -> None:
    payload, buffers, _ = WRITES.write_request((None, args, None))
    assert not buffers
    flat = _ring.flat_request(args)
    if flat is None:  # of few values only because they are too many bytes
        assert len(payload) > _ring.FLAT_MOST
        return
    assert flat == payload
    assert alike(_ring.flat_args(flat), args)
    (_, read, _), _ = READS.read_request(flat, ())
    assert alike(read, args)


@given(FLAT)
@settings(max_examples=300)
def test_flat_replies_are_the_codecs(value: Any) -> None:
    _, _, memo = WRITES.write_request((None, (), None))
    _, callee = READS.read_request(WRITES.write_request((None, (), None))[0], ())
    payload, _ = WRITES.write_reply(value, callee)
    assert _ring.flat_reply(value) == payload
    assert alike(_ring.flat_result(payload), value)
    assert alike(READS.read_reply(payload, (), memo, False), value)


@given(some.lists(ANY, max_size=4).map(tuple), ANY)
@example((2**63,), -(2**63) - 1)
@example(("x" * 128,), b"y" * 128)
@example(("\ud800",), "\ud800")
@example((Number.ONE,), Number.ONE)
@example((Text("t"),), Text("t"))
@example(((),), ())
@settings(max_examples=300)
def test_whatever_is_written_flat_is_what_the_codec_writes(args: tuple[Any, ...], value: Any) -> None:
    flat, reply = _ring.flat_request(args), _ring.flat_reply(value)
    if flat is not None:
        assert flat == WRITES.write_request((None, args, None))[0]
    if reply is not None:
        _, memo = READS.read_request(WRITES.write_request((None, (), None))[0], ())
        assert reply == WRITES.write_reply(value, memo)[0]


@pytest.mark.parametrize(
    "value",
    [2**63, "x" * 128, b"y" * 128, "\ud800", Number.ONE, Text("t"), (1,), [1], {}, 1j, ..., object()],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_flat_is_left_to_the_codec(value: Any) -> None:
    assert _ring.flat_request((value,)) is None
    assert _ring.flat_reply(value) is None
    assert _ring.flat_request((1,) * 65) is None
    assert _ring.flat_request((b"z" * 127,) * 9) is None, "more bytes than there is room for"


@given(some.binary(max_size=40), some.lists(FLAT, max_size=4).map(tuple), some.integers(0, 60), some.integers(0, 255))
@settings(max_examples=600)
def test_bytes_that_are_read_flat_are_read_so_by_the_codec_and_no_others_are(
    noise: bytes, args: tuple[Any, ...], place: int, byte: int
) -> None:
    """Noise, what was cut off, and what was changed in one place: read as the codec reads it, or left to it."""
    good = _ring.flat_request(args) or b""
    changed = bytearray(good)
    if changed:
        changed[place % len(changed)] = byte
    for data in (noise, good[: place % (len(good) + 1)], bytes(changed), good + noise, b"\x11\x03\x00\x11" + noise):
        read = _ring.flat_args(data)
        if read is not None:
            (first, known, last), _ = READS.read_request(data, ())
            assert first is None
            assert last is None
            assert alike(read, known)
        value = _ring.flat_result(b"\0" + data)
        if data and _ring.flat_result(data) is not None:
            assert data[0] == 0, "something of the request changed"
        if value is not None:
            assert alike(value, READS.read_reply(b"\0" + data, (), None, False))


def test_what_is_read_is_counted(record_exercised: Callable[[str, int], None]) -> None:
    """Every value of one byte after every tag: what the flat reader takes, and that it never takes more than the codec."""
    taken = 0
    for tag in range(256):
        for size in range(256):
            data = bytes((0, tag, size)) + b"a" * 8
            for reply in (*(data[:end] for end in range(2, len(data) + 1)), data[:3] + b"a" * size):
                if (value := _ring.flat_result(reply)) is not None or reply[1:] == b"\0":
                    assert alike(value, READS.read_reply(reply, (), None, False))
                    taken += 1
    assert taken > 256
    record_exercised("short replies that were read flat and by the codec alike", taken)
