"""Reading values that are made at once: scalars, immutable containers, references."""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Callable
from operator import itemgetter
from typing import Any

from shardwright.transport.codec import _wire as wire
from shardwright.transport.codec._decoder import Decoder
from shardwright.transport.codec._wire import SHARED_BYTES, Tag, violation

# -- scalars ---------------------------------------------------------------------------------------------------


def _constant(value: Any) -> Callable[[Decoder], Any]:
    def decode(d: Decoder) -> Any:
        d.at += 1
        return value

    return decode


def _int_1(d: Decoder) -> int:
    at = d.at + 1
    d.at = at + 1
    n = d.raw[at]
    return n if n < 128 else n - 256


def _fixed(
    size: int, unpack: Callable[[bytes, int], tuple[Any, ...]], make: Callable[..., Any]
) -> Callable[[Decoder], Any]:
    def decode(d: Decoder) -> Any:
        at = d.at + 1
        if at + size > d.end:
            raise violation("a number is cut short")
        d.at = at + size
        return make(*unpack(d.raw, at))

    return decode


def _int_any(d: Decoder) -> int:
    d.at += 1
    return int.from_bytes(d.take(d.number()), "little", signed=True)


def _str(d: Decoder) -> str:
    at = d.at + 1
    raw = d.raw
    size = raw[at]
    if size < SHARED_BYTES:
        at += 1
        stop = at + size
        if stop > d.end:
            raise violation("a string is cut short")
        d.at = stop
        return raw[at:stop].decode()
    d.at = at
    text = d.take(d.number()).decode()
    d.objects.append(text)
    return text


def _str_surrogates(d: Decoder) -> str:
    d.at += 1
    size = d.number()
    text = d.take(size).decode("utf-8", "surrogatepass")
    if size >= SHARED_BYTES:
        d.objects.append(text)
    return text


def _bytes(d: Decoder) -> bytes:
    d.at += 1
    size = d.number()
    value = d.take(size)
    if size >= SHARED_BYTES:
        d.objects.append(value)
    return value


def _bytes_buffer(d: Decoder) -> bytes:
    d.at += 1
    value = bytes(d.buffer())
    d.objects.append(value)
    return value


# -- immutable containers --------------------------------------------------------------------------------------


def _tuple(d: Decoder) -> tuple[Any, ...]:
    d.at += 1
    value = tuple(d.elements())
    d.objects.append(value)
    return value


def _frozenset(d: Decoder) -> frozenset[Any]:
    d.skip()
    d.charge(wire.WEIGHT_SET)
    inside = d.elements()
    d.key_cost.weigh(inside)
    d.key_cost.spend(inside, True)
    value = frozenset(inside)
    d.remember(value)
    return value


def _slice(d: Decoder) -> slice:
    d.skip()
    d.enter()
    value = slice(d.value(), d.value(), d.value())
    d.leave()
    d.remember(value)
    return value


def _range(d: Decoder) -> range:
    d.skip()
    d.enter()
    start, stop, step = d.value(), d.value(), d.value()
    d.leave()
    if type(start) is not int or type(stop) is not int or type(step) is not int:
        raise violation("a range of something else than integers")
    value = range(start, stop, step)
    d.remember(value)
    return value


# -- references ------------------------------------------------------------------------------------------------


def _reference(d: Decoder) -> Any:
    d.at += 1
    n = d.number()
    if n >= len(d.objects):
        raise violation(f"reference to object {n} of {len(d.objects)}")
    return d.objects[n]


def _now(d: Decoder) -> Any:
    """The next value is a new shell, and its contents follow it at once."""
    d.at += 1
    queue = d.queue
    if d.raw[d.at] not in _SHELLS:
        raise violation("NOW before something that has no contents")
    thing = d.value()
    number, contents, owner = queue.pop()
    if owner is not thing:
        raise violation("NOW before something that has no contents")
    d.contents_now(number, contents, thing)
    return thing


def _fill(d: Decoder) -> Any:
    """Contents of shells that stand already, and then the value that needed them."""
    queue = d.queue
    first = bisect_left(queue, d.base, key=itemgetter(0))
    while d.raw[d.at] == Tag.FILL:
        d.at += 1
        n = d.number()
        at = bisect_left(queue, n, first, key=itemgetter(0))
        if n <= d.frontier or n in d.filled or at == len(queue) or queue[at][0] != n:
            raise violation(f"FILL of object {n}, which awaits no contents")
        d.contents_now(*queue[at])
    d.enter()
    value = d.value()
    d.depth += 1
    return value


_SHELLS = {
    int(tag)
    for tag in (
        *(Tag.LIST, Tag.DICT, Tag.SET, Tag.BYTEARRAY, Tag.DEQUE, Tag.ORDERED_DICT, Tag.DEFAULT_DICT, Tag.COUNTER),
        *(Tag.ARRAY, Tag.OBJECT, Tag.NUMPY_ARRAY, Tag.EXCEPTION),
    )
}


READERS: dict[Tag, Callable[[Decoder], Any]] = {
    Tag.NONE: _constant(None),
    Tag.TRUE: _constant(True),
    Tag.FALSE: _constant(False),
    Tag.ELLIPSIS: _constant(...),
    Tag.NOT_IMPLEMENTED: _constant(NotImplemented),
    Tag.INT_1: _int_1,
    Tag.INT_4: _fixed(4, struct.Struct("<i").unpack_from, int),
    Tag.INT_8: _fixed(8, struct.Struct("<q").unpack_from, int),
    Tag.INT_ANY: _int_any,
    Tag.FLOAT: _fixed(8, struct.Struct("<d").unpack_from, float),
    Tag.COMPLEX: _fixed(16, struct.Struct("<dd").unpack_from, complex),
    Tag.STR: _str,
    Tag.STR_SURROGATES: _str_surrogates,
    Tag.BYTES: _bytes,
    Tag.BYTES_BUFFER: _bytes_buffer,
    Tag.EMPTY_TUPLE: _constant(()),
    Tag.TUPLE: _tuple,
    Tag.FROZENSET: _frozenset,
    Tag.SLICE: _slice,
    Tag.RANGE: _range,
    Tag.REFERENCE: _reference,
    Tag.NOW: _now,
    Tag.FILL: _fill,
}
