"""The C extension against the Python code that it stands for: the same bytes, the same values, the same errors."""

from __future__ import annotations

import importlib.util
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec_forms import python_codec
from codec_values import ATOM_VALUES, CODEC, KEYS, Names, Table, build, graph, mutate, recipes
from shardwright.errors import ShardwrightError
from shardwright.model.envelope import Envelope, Kind, PayloadCodec
from shardwright.transport import _envelope
from shardwright.transport.codec import CodecLimits, Memo, TaggedCodec
from shardwright.transport.codec._extension import native

_spec = importlib.util.spec_from_file_location("fuzz_codec", Path(__file__).parents[1] / "security" / "fuzz_codec.py")
assert _spec is not None and _spec.loader is not None
fuzz: Any = importlib.util.module_from_spec(_spec)
sys.modules["fuzz_codec"] = fuzz
_spec.loader.exec_module(fuzz)

IN_C = CODEC
IN_PYTHON = python_codec(CODEC)


def outcome(run: Callable[..., Any], *arguments: Any) -> Any:
    """What a call gave, or its error as its caller sees it."""
    try:
        return run(*arguments)
    except ShardwrightError as error:
        cause = type(error.__cause__)
        return type(error), str(error), error.code, getattr(error, "outcome", ""), error.remedy, cause


def request(codec: TaggedCodec, value: Any) -> Any:
    payload, buffers, memo = codec.encode_request(value)
    return payload, tuple(map(bytes, buffers)), list(map(id, memo.objects))


def reply(codec: TaggedCodec, value: Any, memo: Memo) -> Any:
    payload, buffers = codec.encode_reply(value, memo)
    return payload, tuple(map(bytes, buffers))


def without_addresses(answer: Any) -> Any:
    """An exception's text may name an object by where it lies."""
    return (re.sub(rb" at 0x[0-9a-f]+", b"", answer[0]), answer[1]) if type(answer[0]) is bytes else answer


def test_there_is_something_to_compare() -> None:
    assert native is not None
    assert type(IN_C._form) is native.NativeForm
    assert type(IN_PYTHON._form) is not native.NativeForm


@settings(deadline=None, max_examples=200)
@given(ATOM_VALUES | KEYS)
def test_values_are_written_and_read_alike(value: Any) -> None:
    written = request(IN_C, value)
    assert written == request(IN_PYTHON, value)
    one, other = IN_C.decode_request(*written[:2]), IN_PYTHON.decode_request(*written[:2])
    assert graph(one[0]) == graph(other[0])
    assert len(one[1].objects) == len(other[1].objects)


@settings(deadline=None, max_examples=200)
@given(recipes(), st.integers(0, 2**32), st.integers(0, 8), st.booleans())
def test_a_whole_call_is_written_and_read_alike(recipe: list[Any], seed: int, steps: int, fails: bool) -> None:
    cut, twin = build(recipe), build(recipe)
    written = request(IN_C, cut)
    assert written == request(IN_PYTHON, cut)
    payload, buffers = written[:2]
    _, _, memo = IN_C.encode_request(cut)
    _, _, twin_memo = IN_PYTHON.encode_request(twin)
    copy, callee = IN_C.decode_request(payload, buffers)
    other, other_callee = IN_PYTHON.decode_request(payload, buffers)
    assert graph(copy) == graph(other)
    assert len(callee.snapshots) == len(other_callee.snapshots)
    assert [type(thing) for thing in callee.objects] == [type(thing) for thing in other_callee.objects]
    result = mutate(copy, seed, steps)
    twin_result = mutate(other, seed, steps)
    if fails:
        result, twin_result = ValueError("no", result), ValueError("no", twin_result)
    answer = outcome(reply, IN_C, result, callee)
    assert answer == outcome(reply, IN_PYTHON, result, callee)
    assert without_addresses(answer) == without_addresses(outcome(reply, IN_PYTHON, twin_result, other_callee))
    if type(answer[0]) is bytes:
        got = IN_C.decode_reply(*answer, memo)
        expected = IN_PYTHON.decode_reply(*answer, twin_memo)
        if fails:
            got, expected = got.args, expected.args
        assert graph([cut, got]) == graph([twin, expected])


class Unlisted:
    pass


CYCLE: list[Any] = [{1: "a"}]
CYCLE.append((CYCLE, CYCLE[0]))
LIMITED = TaggedCodec(CODEC.classes, limits=CodecLimits(max_bytes=50_000, max_items=3000, max_depth=20))


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = (value,)
    return value


@pytest.mark.parametrize(
    "value",
    [
        Unlisted(),
        [{"jobs": [1, Unlisted()]}],
        {"a": (1, lambda: None)},
        CYCLE,
        nested(20),
        nested(21),
        list(range(2999)),
        list(range(3000)),
        dict.fromkeys(range(1499)),
        dict.fromkeys(range(1500)),
        [[[]] * 5 for _ in range(500)],
        [[0] for _ in range(1500)],
        "x" * 49_990,
        "x" * 50_000,
        "é" * 24_000,
        [b"y" * 32_768, bytearray(b"z" * 33_000)],
        [bytes(range(256)) * 100, memoryview(b"")],
        ["\ud800" * 20, "\ud800" * 50, "\udfff" + "a" * 2000],
        [2**62, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**31, -(2**31) - 1, 127, 128, -128, -129, 2**4000],
        (),
        ((),),
        {frozenset({(1, 2)}): {frozenset()}, (): ()},
        [Names([1, 2]), Table({1: 2}), slice(1, [2], None), range(10**30), ...],
        [float("nan"), -0.0, float("inf"), 1e-310, complex(-0.0, float("nan"))],
        ("same " * 40,) * 2,
        [(n, n) for n in range(300)] * 2,
    ],
    ids=lambda value: f"{type(value).__name__}",
)
def test_bounds_and_refusals_are_alike(value: Any) -> None:
    for codec in (CODEC, LIMITED):
        twin = python_codec(codec)
        written = outcome(request, codec, value)
        assert written == outcome(request, twin, value)
        if type(written[0]) is not bytes:
            continue
        payload, buffers, _ = written
        assert repr(codec.decode_request(payload, buffers)[0]) == repr(twin.decode_request(payload, buffers)[0])
        for size in range(min(len(payload), 300)):
            cut = outcome(codec.decode_request, payload[:size], buffers)
            assert cut == outcome(twin.decode_request, payload[:size], buffers)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_read_alike(raw: bytes, with_buffer: bool) -> None:
    fuzz.attempt(raw, (b"b" * 40,) if with_buffer else ())


def test_mutated_messages_are_read_alike(record_exercised: Callable[[str, int], None]) -> None:
    chance = random.Random(7)
    seeds = fuzz.corpus()
    accepted = 0
    for _ in range(4000):
        payload, buffers = chance.choice(seeds)
        accepted += fuzz.attempt(fuzz.mutated(payload, chance), buffers)
    assert accepted > 100
    record_exercised("mutated messages that both forms of the codec accepted, alike", accepted)


U64 = st.integers(-1, 2**64)
ENVELOPES = st.builds(
    Envelope,
    st.sampled_from(Kind),
    U64,
    U64,
    st.integers(-1, 2**32),
    st.integers(0, 2**32),
    U64,
    st.binary(min_size=15, max_size=17) | st.binary(min_size=16, max_size=16),
    U64,
    U64,
    st.sampled_from(PayloadCodec),
    st.binary(max_size=100) | st.just(b"x" * 5000) | st.binary(max_size=9).map(memoryview),
    st.lists(st.binary(max_size=9), max_size=2).map(tuple),
)


def joined(pack: Callable[[Envelope], Any], envelope: Envelope) -> Any:
    try:
        return b"".join(bytes(part) for part in pack(envelope))
    except ValueError as error:
        return str(error)


@settings(deadline=None, max_examples=300)
@given(ENVELOPES)
def test_envelopes_are_packed_and_unpacked_alike(envelope: Envelope) -> None:
    frame = joined(_envelope.pack, envelope)
    assert frame == joined(_envelope.pack_in_python, envelope)
    if type(frame) is bytes:
        for given_frame in (memoryview(frame), frame):
            one = outcome(_envelope.unpack, given_frame)
            other = outcome(_envelope.unpack_in_python, given_frame)
            assert one == other
            if type(one) is Envelope:
                assert [type(getattr(one, name)) for name in one.__struct_fields__] == [
                    type(getattr(other, name)) for name in other.__struct_fields__
                ]
