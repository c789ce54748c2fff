"""Whatever a peer sends, the codec answers with a value or with ProtocolViolation: it runs nothing, imports nothing,
takes little memory, and leaves the caller's objects alone."""

from __future__ import annotations

import importlib.util
import random
import struct
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from codec_forms import codec_form
from shardwright.errors import ProtocolViolation
from shardwright.transport.codec import ClassTable, CodecLimits, TaggedCodec

__all__ = ["codec_form"]
pytestmark = pytest.mark.usefixtures("codec_form")

_spec = importlib.util.spec_from_file_location("fuzz_codec", Path(__file__).with_name("fuzz_codec.py"))
assert _spec is not None and _spec.loader is not None
fuzz: Any = importlib.util.module_from_spec(_spec)
sys.modules["fuzz_codec"] = fuzz
_spec.loader.exec_module(fuzz)

CODEC = TaggedCodec()
INT_1, INT_ANY, TUPLE, LIST, OBJECT, NAMED, ENUM, PARTS, EXCEPTION = (
    *(0x05, 0x08, 0x11, 0x20, 0x30, 0x34, 0x32, 0x40, 0x60),
)


def refused(payload: bytes, buffers: tuple[bytes, ...] = (), codec: TaggedCodec = CODEC) -> str:
    with pytest.raises(ProtocolViolation) as caught:
        codec.decode_request(payload, buffers)
    return str(caught.value)


def number(n: int) -> bytes:
    if n < 248:
        return bytes((n,))
    size = (n.bit_length() + 7) // 8
    return bytes((247 + size,)) + n.to_bytes(size, "little")


def text(value: str) -> bytes:
    return number(len(value.encode())) + value.encode()


def test_random_bytes() -> None:
    chance = random.Random(1)
    for _ in range(4000):
        fuzz.attempt(chance.randbytes(chance.randrange(60)), ())


def test_mutations_of_valid_messages() -> None:
    chance = random.Random(2)
    seeds = fuzz.corpus()
    accepted = 0
    for _ in range(4000):
        payload, buffers = chance.choice(seeds)
        accepted += fuzz.attempt(fuzz.mutated(payload, chance), buffers)
    assert accepted > 0, "the mutations are so wild that nothing beyond the first byte is tested"


def test_every_truncation_of_a_valid_message_is_refused() -> None:
    for payload, buffers in fuzz.samples()[:10:2]:  # the requests
        for size in range(min(len(payload), 400)):
            with pytest.raises(ProtocolViolation):
                fuzz.CODEC.decode_request(payload[:size], buffers)


def test_something_left_over_is_refused() -> None:
    assert "left over" in refused(b"\0\0")
    assert "left over" in refused(b"\0", (b"abc",))


@pytest.mark.parametrize("count", [2, 247, 248, 1 << 20, (1 << 56) - 1])
@pytest.mark.parametrize("head", [b"\x11", b"\x12", b"\x20", b"\x21", b"\x22", b"\x0b", b"\x0c", b"\x0d", b"\x08"])
def test_lying_counts_are_refused_before_anything_is_made(head: bytes, count: int) -> None:
    tracemalloc.start()
    try:
        refused(head + number(count) + b"\0")
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


NESTING = {
    "tuple": b"\x11\x01",
    "slice": b"\x13",
    "range": b"\x14",
    "frozenset": b"\x12\x01",
    "parts": b"\x40\0\x01",
}


@pytest.mark.parametrize("kind", ["tuple", "slice", "range", "frozenset", "parts"])
@pytest.mark.parametrize("levels", [201, 5_000, 200_000])
def test_deep_nesting_of_immutables_is_refused(kind: str, levels: int) -> None:
    first = b"\x40\0\x04date\x01" if kind == "parts" else b""
    assert "deep" in refused(first + NESTING[kind] * levels + b"\0")


@pytest.mark.parametrize("kind", ["tuple", "slice", "range"])
def test_the_deepest_nesting_that_is_permitted_does_not_fill_the_stack(kind: str) -> None:
    rest = {"tuple": b"", "slice": b"\0\0", "range": b"\x05\1\x05\1"}[kind]
    payload = NESTING[kind] * 200 + b"\0" + rest * 200
    if kind == "range":
        assert "integers" in refused(payload)
    else:
        CODEC.decode_request(payload)


@pytest.mark.parametrize("levels", [70, 50_000])
def test_deep_nesting_of_hashed_contents_is_refused(levels: int) -> None:
    assert "deep" in refused(b"\x19\x20\x01" * levels + b"\0")


def test_deep_lists_are_no_problem() -> None:
    value, _ = CODEC.decode_request(b"\x20" + b"\x01\x20" * 100_000 + b"\0")
    depth = 0
    while value:
        value = value[0]
        depth += 1
    assert depth == 100_000


def test_small_messages_cannot_take_much_memory() -> None:
    codec = TaggedCodec(limits=CodecLimits(max_items=50_000))
    count = 200_000
    for shell in (b"\x20", b"\x22", b"\x24" + bytes(8), b"\x27"):
        payload = b"\x11" + number(count) + shell * count + b"\0" * count
        tracemalloc.start()
        try:
            refused(payload, codec=codec)
            assert tracemalloc.get_traced_memory()[1] < 20_000_000
        finally:
            tracemalloc.stop()


def test_one_buffer_cannot_be_used_twice() -> None:
    assert "buffer" in refused(b"\x11\x02\x0e\x0e", (b"x" * 100,))


def test_a_message_beyond_the_limit_is_refused() -> None:
    assert "permits" in refused(b"\x0e", (b"x" * 2000,), TaggedCodec(limits=CodecLimits(max_bytes=1000)))


def test_integers_of_any_size_are_read_in_linear_time() -> None:
    value, _ = CODEC.decode_request(bytes((INT_ANY,)) + number(1 << 20) + b"\xff" * (1 << 20))
    assert value == -1
    assert refused(bytes((PARTS,)) + b"\0" + text("fraction") + b"\x02\x05\x01\x05\x00") != ""


@pytest.mark.parametrize(
    "name", ["os:system", "antigravity:x", "this:s", "subprocess:Popen", "builtins:eval", "python:builtins.eval", ""]
)
@pytest.mark.parametrize("head", [OBJECT, NAMED, ENUM, PARTS, EXCEPTION])
def test_a_name_of_the_peer_is_never_looked_up(head: int, name: str) -> None:
    asked: list[str] = []

    def resolve(wanted: str) -> Any:
        asked.append(wanted)
        raise AssertionError(wanted)

    codec = TaggedCodec(ClassTable(["app:Item"], resolve))
    before = set(sys.modules)
    if head == EXCEPTION:
        payload = b"\x60\x01\0" + text(name) + b"\0\0\0\0\0\0\0\0\0\0"
        made, _ = codec.decode_request(payload)
        assert type(made).__mro__[1].__name__ == "_Foreign"
    else:
        refused(bytes((head, 0)) + text(name) + b"\0\0\0\0", codec=codec)
    assert set(sys.modules) == before
    assert asked == []


def test_a_class_that_cannot_be_resolved_is_a_violation() -> None:
    def resolve(name: str) -> Any:
        raise ImportError(name)

    codec = TaggedCodec(ClassTable(["app:Item"], resolve))
    assert "app:Item" in refused(b"\x30\0" + text("app:Item") + b"\0", codec=codec)


def test_a_hash_that_raises_is_a_violation() -> None:
    class Sour:
        def __hash__(self) -> int:
            raise ZeroDivisionError

    name = f"{Sour.__module__}:{Sour.__qualname__}"
    codec = TaggedCodec(ClassTable([name], {name: Sour}.__getitem__))
    payload, buffers, _ = codec.encode_request([Sour()])
    assert type(codec.decode_request(payload, buffers)[0][0]) is Sour
    assert "ZeroDivisionError" in refused(b"\x22\x01\x30\0" + text(name) + b"\x01\0", codec=codec)
    assert "unhashable" in refused(b"\x22\x01\x20\0")


def test_a_malformed_reply_leaves_the_callers_objects_alone() -> None:
    mine = [[1], {"a": 2}]
    request, buffers, memo = CODEC.encode_request(mine)
    copies, callee = CODEC.decode_request(request, buffers)
    copies[0].append(3)
    copies[1]["b"] = 4
    reply, parts = CODEC.encode_reply("done", callee)
    for size in range(len(reply)):
        with pytest.raises(ProtocolViolation):
            CODEC.decode_reply(reply[:size], parts, memo)
    assert mine == [[1], {"a": 2}]
    assert CODEC.decode_reply(reply, parts, memo) == "done"
    assert mine == [[1, 3], {"a": 2, "b": 4}]


def test_a_reply_can_change_nothing_but_what_was_sent() -> None:
    _, _, memo = CODEC.encode_request((1, "x" * 200))
    for number_ in (0, 1, 5):
        with pytest.raises(ProtocolViolation):
            CODEC.decode_reply(bytes((1, number_)) + b"\0\0", (), memo)


def test_a_traceback_never_names_a_device_to_be_read() -> None:
    for filename in ("/dev/zero", "/etc/passwd", "/dev/stdin.py\0", "/proc/self/mem"):
        frames = b"\x01" + text(filename) + text("f") + b"\x01"
        payload = b"\0" + b"\x60\x01\0" + text("builtins:ValueError") + b"\0\0\0\0\0\0\0" + text("") + b"\0" + frames
        error = CODEC.decode_error(payload)
        assert error.__traceback__ is not None
        shown = error.__traceback__.tb_frame.f_code.co_filename
        assert shown == f"<{filename}>"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("datetime", b"\x01\x0d\x0aabcdefghij"),
        ("zoneinfo", b"\x01" + b"\x0b" + text("../../etc/passwd")),
        ("decimal", b"\x01" + b"\x0b" + text("1_0")),
        ("decimal", b"\x01" + b"\x0b" + text("\u0663")),
        ("pattern", b"\x02" + b"\x0b" + text("((((") + b"\x05\0"),
        ("pattern", b"\x02" + b"\x0b" + text("a") + b"\x06" + struct.pack("<i", 128)),
        ("uuid", b"\x02\x05\xff\0"),
        ("path.PosixPath", b"\x01\x05\x01"),
    ],
)
def test_parts_that_make_no_value_are_refused(name: str, parts: bytes) -> None:
    assert name.split(".")[0] in refused(b"\x40\0" + text(name) + parts)
