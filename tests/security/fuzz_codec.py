"""Throws mutated messages at the tagged codec and the envelope: `python tests/security/fuzz_codec.py --seconds N`.

Anything but a value or ProtocolViolation is a finding, and so is anything that the C extension and the Python code read
differently: it is printed with its seed, and the exit status is 1. `scripts/fuzz` lets coverage of the C code guide the
mutations instead.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import enum
import fractions
import random
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

from shardwright.errors import ProtocolViolation, ShardwrightError
from shardwright.model.envelope import Envelope, Kind, PayloadCodec
from shardwright.transport._envelope import pack, unpack, unpack_in_python
from shardwright.transport.codec import ClassTable, CodecLimits, TaggedCodec
from shardwright.transport.codec._form import PythonForm


@dataclasses.dataclass(frozen=True)
class Key:
    name: str
    tags: frozenset[Any] = frozenset()


@dataclasses.dataclass
class Box:
    held: Any = None


class Mood(enum.Enum):
    GOOD = 1


class Failed(ValueError):
    pass


LISTED = {f"{cls.__module__}:{cls.__qualname__}": cls for cls in (Key, Box, Mood, Failed)}
CODEC = TaggedCodec(ClassTable(LISTED, LISTED.__getitem__), limits=CodecLimits(max_bytes=1 << 20, max_items=100_000))
PYTHON = TaggedCodec(CODEC.classes, limits=CODEC.limits)
PYTHON._form = PythonForm(PYTHON)


def samples() -> list[tuple[bytes, tuple[Any, ...]]]:
    """Valid requests, replies and errors that between them use every tag."""
    box = Box([1, {"a": 2}])
    box.held.append(box)
    tags = (Key("k", frozenset({Key("inner")})), {Key("x"): 1, (1, 2): {3}}, collections.Counter("aab"))
    values: list[Any] = [
        ("sword", 2, -1, 1 << 20, 1 << 40, 1 << 400, 1.5, 2j, None, True, ..., NotImplemented, b"x" * 200, "é" * 200),
        (box, box, [box], collections.deque([1], 3), collections.defaultdict(list, a=[1]), bytearray(b"abc")),
        tags,
        (datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC), Decimal("1.5"), fractions.Fraction(1, 3), Mood.GOOD),
        (
            slice(1, None),
            range(3),
            frozenset({1, ("a",)}),
            int,
            len,
            "\ud800",
            collections.OrderedDict(a=1),
            b"y" * 40000,
        ),
    ]
    made: list[tuple[bytes, tuple[Any, ...]]] = []
    for value in values:
        payload, buffers, _ = CODEC.encode_request(value)
        made.append((payload, buffers))
        copy, memo = CODEC.decode_request(payload, buffers)
        if value[0] is box:
            copy[0].held.append("changed")
        made.append(CODEC.encode_reply(copy, memo))
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise Failed("outer", box) from error
    except Failed as error:
        error.add_note("a note")
        made.append(CODEC.encode_error(error))
        made.append(CODEC.encode_error(ExceptionGroup("both", [error, OSError(2, "gone", "file")])))
    return made


def mutated(raw: bytes, chance: random.Random) -> bytes:
    """A few random changes: flipped bits, cut, repeated, moved and random bytes."""
    out = bytearray(raw)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        at = chance.randrange(len(out) + 1)
        action = chance.randrange(6)
        if action == 0 and at < len(out):
            out[at] ^= 1 << chance.randrange(8)
        elif action == 1:
            del out[at:]
        elif action == 2:
            out[at:at] = out[at : at + chance.randrange(1, 40)]
        elif action == 3 and at < len(out):
            out[at] = chance.choice((0, 1, 0x7F, 0x80, 0xF8, 0xFE, 0xFF, chance.randrange(256)))
        elif action == 4:
            del out[at : at + chance.randrange(1, 20)]
        else:
            out[at:at] = chance.randbytes(chance.randrange(1, 12))
    return bytes(out)


def caller() -> list[Any]:
    return [[1, 2], {"a": 1}, {1}, Box(1), bytearray(b"z"), "x" * 200, collections.Counter("a")]


def outcome(codec: TaggedCodec, read: int, payload: bytes, buffers: tuple[Any, ...]) -> tuple[str, Any]:
    """What one reader makes of a message: words to compare, and what it read. Raises on a finding."""
    try:
        if read == 0:
            value, memo = codec.decode_request(payload, buffers)
            return "a request", (value, len(memo.objects), len(memo.snapshots))
        mine = caller()
        _, _, memo = codec.encode_request(mine)
        if read == 1:
            return "a reply", (codec.decode_reply(payload, buffers, memo), mine)
        return "an error", (codec.decode_error(payload, buffers, memo), mine)
    except ProtocolViolation as violation:
        return f"refused: {violation}", None


def rewritten(value: Any) -> Any:
    """What was read, as bytes that tell any difference; or why it cannot be sent on."""
    try:
        payload, buffers, _ = PYTHON.encode_request(value)
    except (ShardwrightError, TypeError, ValueError) as error:
        return type(error), str(error)
    return payload, tuple(map(bytes, buffers))


def unpacked(frame: bytes, unpack: Any) -> Any:
    try:
        envelope = unpack(memoryview(frame))
    except ProtocolViolation as violation:
        return str(violation)
    return None if envelope is NotImplemented else envelope


def attempt(payload: bytes, buffers: tuple[Any, ...]) -> int:
    """Feed one message to every reader, of either form; returns how many took it for valid. Raises on a finding."""
    accepted = 0
    for read in range(3):
        words, found = outcome(CODEC, read, payload, buffers)
        accepted += found is not None
        if CODEC._form is PYTHON._form:
            continue
        try:
            expected, reference = outcome(PYTHON, read, payload, buffers)
        except RecursionError:
            continue  # the stack that is left: C takes less of it
        assert words == expected, f"{words!r}, but in Python {expected!r}"
        if found is not None:
            assert rewritten(found) == rewritten(reference), f"another value: {found!r}, but in Python {reference!r}"
    envelope = unpacked(payload, unpack)
    assert envelope == unpacked(payload, unpack_in_python)
    return accepted + (not isinstance(envelope, str))


def one_input(raw: bytes) -> None:
    """One input of a coverage-guided fuzzer: a byte that says to whom the rest goes, and the rest. Raises on a finding."""
    choice, payload = raw[0] if raw else 0, raw[1:]
    buffers = (b"b" * 40, b"y" * 40_000)[: choice >> 2 & 3]
    if choice & 3 == 3:
        assert unpacked(payload, unpack) == unpacked(payload, unpack_in_python)
        return
    words, found = outcome(CODEC, choice & 3, payload, buffers)
    if choice & 0x80:  # the Python code is slow: it has its say on some
        try:
            expected, reference = outcome(PYTHON, choice & 3, payload, buffers)
        except RecursionError:
            return
        assert words == expected, f"{words!r}, but in Python {expected!r}"
        assert found is None or rewritten(found) == rewritten(reference)
    elif found is not None:
        rewritten(found)


def write_corpus(folder: Path) -> None:
    """Inputs for ``one_input`` to begin with."""
    for number, (payload, buffers) in enumerate(corpus()):
        read = (number % 2) if payload[:2] != b"SW" else 3
        for choice in (read | len(buffers) << 2, 2, 0x80 | read | len(buffers) << 2):
            folder.joinpath(f"{number}-{choice}").write_bytes(bytes((choice,)) + payload)


def corpus() -> list[tuple[bytes, tuple[Any, ...]]]:
    made = samples()
    payload, buffers = made[0]
    frame = Envelope(Kind.CALL, 7, codec=PayloadCodec.TAGGED, payload=payload, buffers=(b"abc", *buffers))
    return [*made, (b"".join(bytes(part) for part in pack(frame)), ())]


def run(seconds: float, seed: int) -> int:
    seeds = corpus()
    stop = time.monotonic() + seconds
    tried = accepted = 0
    while time.monotonic() < stop:
        for _ in range(100):
            chance = random.Random(seed + tried)
            payload, buffers = chance.choice(seeds)
            try:
                accepted += attempt(mutated(payload, chance), buffers)
            except BaseException:
                print(f"finding: --seed {seed + tried}", file=sys.stderr)
                raise
            tried += 1
    print(f"{tried} messages, {accepted} readings accepted, no findings")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    return run(options.seconds, options.seed)


if __name__ == "__main__":
    sys.exit(main())
