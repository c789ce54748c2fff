"""Keys that a peer chose so that hashing or placing them takes for ever are refused before any of that work is done."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from typing import Any

import pytest

from codec_forms import codec_form
from shardwright.errors import ProtocolViolation
from shardwright.transport.codec import ClassTable, TaggedCodec
from shardwright.transport.codec import _keys as key_cost

__all__ = ["codec_form"]
pytestmark = pytest.mark.usefixtures("codec_form")

TUPLE, LIST, DICT, SET, FROZENSET, REFERENCE = 0x11, 0x20, 0x21, 0x22, 0x12, 0x18
PRIME = 2**61 - 1  # hashes of numbers are modulo this


def number(n: int) -> bytes:
    if n < 248:
        return bytes((n,))
    size = (n.bit_length() + 7) // 8
    return bytes((247 + size,)) + n.to_bytes(size, "little")


def integer(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x08" + number(len(raw)) + raw


def container(tag: int, keys: list[bytes]) -> bytes:
    value = b"\x00" if tag == DICT else b""
    return bytes((tag,)) + number(len(keys)) + b"".join(key + value for key in keys)


COLLIDING = {
    "integers": [integer(n * PRIME) for n in range(1, 20_000)],
    "negative integers": [integer(-n * PRIME) for n in range(1, 20_000)],
    "complex": [b"\x0a" + struct.pack("<dd", 2.0 ** (n % 2000 - 1000), 0.0) for n in range(20_000)],
    "tuples": [bytes((TUPLE, 2)) + integer(n * PRIME) + b"\x05\x01" for n in range(1, 20_000)],
}


@pytest.mark.parametrize("tag", [DICT, SET, FROZENSET])
@pytest.mark.parametrize("kind", COLLIDING)
def test_keys_that_fall_upon_each_other_are_refused(kind: str, tag: int) -> None:
    with pytest.raises(ProtocolViolation, match="collide too often"):
        TaggedCodec().decode_request(container(tag, COLLIDING[kind]))


def test_many_small_containers_share_one_allowance() -> None:
    keys = [integer(n * PRIME) for n in range(1, 1001)]
    inside = b"".join(container(FROZENSET, keys) for _ in range(100))
    with pytest.raises(ProtocolViolation, match="collide too often"):
        TaggedCodec().decode_request(bytes((LIST,)) + number(100) + inside)


def test_distinct_hashes_that_find_each_others_places_taken_are_refused() -> None:
    """Keys along the way that a full table is searched, and others that all join that way at its beginning."""
    bits, chance = 12, random.Random(1)
    mask = (1 << bits) - 1
    way = [0]
    while len(way) < 1300:
        way.append((5 * way[-1] + 1) & mask)
    late: dict[int, None] = {}
    taken = frozenset(way)
    while len(late) < 1300:
        hashed = chance.getrandbits(24)
        at, perturb = hashed & mask, hashed
        while at in taken and perturb:
            perturb >>= 5
            at = (at * 5 + perturb + 1) & mask
        if at in taken and hashed not in taken:
            late[hashed] = None
    keys = [*way, *late]
    assert len(set(map(hash, keys))) == len(keys)
    with pytest.raises(ProtocolViolation, match="collide too often"):
        key_cost.KeyCost(10_000_000).spend(keys, False)


@pytest.mark.parametrize("tag", [DICT, FROZENSET])
def test_a_tuple_that_doubles_is_refused(tag: int) -> None:
    tower = [bytes((TUPLE, 1)) + b"\x00"]
    for n in range(60):
        tower.append(bytes((TUPLE, 2, REFERENCE)) + number(n) + bytes((REFERENCE,)) + number(n))
    body = bytes((TUPLE,)) + number(len(tower) + 1) + b"".join(tower)
    key = bytes((REFERENCE,)) + number(60)
    with pytest.raises(ProtocolViolation, match="too long to hash"):
        TaggedCodec().decode_request(body + container(tag, [key]))


def test_a_tuple_without_a_floor_is_refused() -> None:
    tower = [bytes((TUPLE, 1)) + b"\x00"]
    for n in range(100_000):
        tower.append(bytes((TUPLE, 1, REFERENCE)) + number(n))
    body = bytes((TUPLE,)) + number(len(tower) + 1) + b"".join(tower)
    key = bytes((REFERENCE,)) + number(100_000)
    with pytest.raises(ProtocolViolation, match="nested more than"):
        TaggedCodec().decode_request(body + container(FROZENSET, [key]))


@dataclass(frozen=True)
class Pair:
    left: Any
    right: Any


@dataclass(frozen=True)
class Spot:
    x: int
    y: int


CLASSES = ClassTable([f"{__name__}:Pair", f"{__name__}:Spot"], lambda name: globals()[name.partition(":")[2]])


def test_a_data_class_that_doubles_is_refused() -> None:
    top = Pair(1, 2)
    for _ in range(14):
        top = Pair(top, top)
    codec = TaggedCodec(CLASSES)
    payload, buffers, _ = codec.encode_request([top, {top: 1}])
    assert codec.decode_request(payload, buffers)[0] == [top, {top: 1}]
    small = key_cost.KeyCost(10_000)
    with pytest.raises(ProtocolViolation, match="too long to hash"):
        small.spend([top, Pair(3, 4)], False)


@pytest.mark.parametrize("tag", [DICT, SET, FROZENSET])
def test_a_key_that_leads_back_to_itself_is_refused(tag: int) -> None:
    """Also where it is the only one, which nothing need be compared with: its hash would never end."""
    pair = Pair(1, "here")
    object.__setattr__(pair, "left", pair)
    codec = TaggedCodec(CLASSES)
    payload, _, _ = codec.encode_request(pair)
    copy, _ = codec.decode_request(payload)
    assert copy.left is copy and payload.count(b"\x0b\x04here") == 1
    with pytest.raises(ProtocolViolation, match=r"nested more than|has no attribute 'left'"):
        codec.decode_request(payload.replace(b"\x0b\x04here", container(tag, [bytes((REFERENCE, 0))])))


HONEST: dict[str, list[Any]] = {
    "dense": list(range(30_000)),
    "negative": [-n for n in range(30_000)],
    "multiples": [n * 1000 for n in range(30_000)],
    **{f"shifted {shift}": [n << shift for n in range(30_000)] for shift in (3, 12, 20, 32, 40, 45)},
    "large": [(n << 90) + n for n in range(30_000)],
    "floats": [n * 0.001 for n in range(30_000)],
    "binary fractions": [n / 1024 for n in range(30_000)],
    "nanoseconds": [1_700_000_000_000_000_000 + n * 10**9 for n in range(30_000)],
    "places": [(x, y) for x in range(150) for y in range(150)],
    "named": [("a", n, 2.5) for n in range(30_000)],
    "objects": [Spot(x, y) for x in range(100) for y in range(100)],
    "mixed": [*range(5000), *map(str, range(5000)), None, (1, (2, (3,)))],
    "few of the same hash": [n * PRIME for n in range(1, 600)],
}


@pytest.mark.parametrize("kind", HONEST)
def test_honest_keys_pass(kind: str) -> None:
    keys = HONEST[kind]
    codec = TaggedCodec(CLASSES)
    for value in (dict.fromkeys(keys, 0), set(keys), [frozenset(keys)]):
        payload, buffers, _ = codec.encode_request(value)
        assert codec.decode_request(payload, buffers)[0] == value
