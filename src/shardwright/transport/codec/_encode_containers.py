"""Writing mutable containers: a shell first, the contents when their turn comes."""

from __future__ import annotations

import array
import collections
import sys
from typing import Any

from shardwright.transport.codec import _wire as wire
from shardwright.transport.codec._classes import instance_dict
from shardwright.transport.codec._encode_values import encode_named
from shardwright.transport.codec._encoder import Encode, Encoder
from shardwright.transport.codec._wire import LARGE_BYTES, Refusal, Tag


def _list(s: Encoder, value: list[Any]) -> None:
    if not s.known(value):
        s.begin(Tag.LIST)
        s.shell(value, list_contents, wire.WEIGHT_LIST)


def list_contents(s: Encoder, value: Any) -> None:
    s.values(list.__getitem__(value, slice(None)))


def _dict(s: Encoder, value: dict[Any, Any]) -> None:
    if not s.known(value):
        s.begin(Tag.DICT)
        s.shell(value, dict_contents, wire.WEIGHT_DICT)


def dict_contents(s: Encoder, value: Any) -> None:
    s.pairs(dict.__len__(value), dict.items(value))


def _set(s: Encoder, value: set[Any]) -> None:
    if not s.known(value):
        s.begin(Tag.SET)
        s.shell(value, set_contents, wire.WEIGHT_SET)


def set_contents(s: Encoder, value: Any) -> None:
    s.values(list(set.__iter__(value)))


def _bytearray(s: Encoder, value: bytearray) -> None:
    if not s.known(value):
        s.begin(Tag.BYTEARRAY)
        s.shell(value, bytearray_contents, wire.WEIGHT_LIST)


def bytearray_contents(s: Encoder, value: Any) -> None:
    raw_contents(s, bytes(value))


def raw_contents(s: Encoder, raw: bytes) -> None:
    """Bytes that belong to one object alone: in band with their length, or 0xFF and the next buffer."""
    if len(raw) >= LARGE_BYTES:
        s.byte(0xFF)
        s.buffer(raw)
    else:
        s.number(len(raw))
        s.write(raw)


def _deque(s: Encoder, value: collections.deque[Any]) -> None:
    if not s.known(value):
        s.begin(Tag.DEQUE)
        s.write(maxlen(value))
        s.shell(value, deque_contents, wire.WEIGHT_DEQUE)


def maxlen(value: collections.deque[Any]) -> bytes:
    """0 for none, else one more than the greatest length, as eight bytes."""
    return (0 if value.maxlen is None else value.maxlen + 1).to_bytes(8, "little")


def deque_contents(s: Encoder, value: Any) -> None:
    s.values(list(collections.deque.__iter__(value)))


def _ordered_dict(s: Encoder, value: Any) -> None:
    if not s.known(value):
        s.begin(Tag.ORDERED_DICT)
        s.shell(value, ordered_dict_contents, wire.WEIGHT_SET)


def ordered_dict_contents(s: Encoder, value: Any) -> None:
    s.pairs(dict.__len__(value), collections.OrderedDict.items(value))


def _default_dict(s: Encoder, value: Any) -> None:
    if not s.known(value):
        s.begin(Tag.DEFAULT_DICT)
        s.shell(value, default_dict_contents, wire.WEIGHT_DICT)


def default_dict_contents(s: Encoder, value: Any) -> None:
    factory = value.default_factory
    if factory is not None and not encode_named(s, factory):
        raise Refusal(factory, f"default factory {factory!r}", "use a builtin type or a listed class")
    if factory is None:
        s.byte(Tag.NONE)
    s.contents(dict_contents, value)


def _counter(s: Encoder, value: Any) -> None:
    if instance_dict(value):
        raise Refusal(value, "a Counter with attributes of its own")
    if not s.known(value):
        s.begin(Tag.COUNTER)
        s.shell(value, dict_contents, wire.WEIGHT_SET)


def _array(s: Encoder, value: array.array[Any]) -> None:
    if not s.known(value):
        s.begin(Tag.ARRAY)
        s.write(value.typecode.encode() + bytes((value.itemsize,)))
        s.shell(value, array_contents, wire.WEIGHT_DICT)


def array_contents(s: Encoder, value: array.array[Any]) -> None:
    raw_contents(s, value.tobytes() if sys.byteorder == "little" else _swapped(value))


def _swapped(value: array.array[Any]) -> bytes:  # pragma: no cover - no big-endian machine here
    swapped = array.array(value.typecode, value)
    swapped.byteswap()
    return swapped.tobytes()


WRITERS: dict[type, Encode] = {
    list: _list,
    dict: _dict,
    set: _set,
    bytearray: _bytearray,
    collections.deque: _deque,
    collections.OrderedDict: _ordered_dict,
    collections.defaultdict: _default_dict,
    collections.Counter: _counter,
    array.array: _array,
}

# Contents by exact type, for objects of a request that a call changed.
CONTENTS: dict[type, Encode] = {
    list: list_contents,
    dict: dict_contents,
    set: set_contents,
    bytearray: bytearray_contents,
    collections.deque: deque_contents,
    collections.OrderedDict: ordered_dict_contents,
    collections.defaultdict: default_dict_contents,
    collections.Counter: dict_contents,
    array.array: array_contents,
}
