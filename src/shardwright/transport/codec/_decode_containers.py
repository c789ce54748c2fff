"""Reading mutable containers: a shell first, its contents when their turn comes."""

from __future__ import annotations

import array
import collections
import sys
from collections.abc import Callable
from operator import is_
from typing import Any

from shardwright.transport.codec import _wire as wire
from shardwright.transport.codec._decoder import Contents, Decoder
from shardwright.transport.codec._memo import same_elements, same_sequence
from shardwright.transport.codec._wire import Tag, violation


def _list(d: Decoder) -> list[Any]:
    d.skip()
    return d.shell([], list_contents, wire.WEIGHT_LIST)  # type: ignore[no-any-return]


def list_contents(d: Decoder, thing: Any) -> None:
    d.fill(fill_list, thing, d.values(), same_list)


def fill_list(thing: Any, held: list[Any]) -> None:
    list.__setitem__(thing, slice(None), held)


def same_list(thing: Any, held: list[Any]) -> bool:
    return list.__len__(thing) == len(held) and all(map(is_, list.__iter__(thing), held))


def _dict(d: Decoder) -> dict[Any, Any]:
    d.skip()
    return d.shell({}, dict_contents, wire.WEIGHT_DICT)  # type: ignore[no-any-return]


def dict_contents(d: Decoder, thing: Any) -> None:
    held = d.pairs()
    d.fill_hashed(fill_dict, thing, held, held[0], same_dict)


def fill_dict(thing: Any, held: tuple[list[Any], list[Any]]) -> None:
    fresh = dict(zip(*held, strict=True))  # hashes first, so that a failing one leaves the object as it was
    dict.clear(thing)
    dict.update(thing, fresh)


def same_dict(thing: Any, held: tuple[list[Any], list[Any]]) -> bool:
    keys, values = held
    return (
        dict.__len__(thing) == len(keys)
        and all(map(is_, dict.__iter__(thing), keys))
        and all(map(is_, dict.values(thing), values))
    )


def ordered_dict_contents(d: Decoder, thing: Any) -> None:
    held = d.pairs()
    d.fill_hashed(_fill_ordered_dict, thing, held, held[0], _same_ordered_dict)


def _fill_ordered_dict(thing: Any, held: tuple[list[Any], list[Any]]) -> None:
    fresh = dict(zip(*held, strict=True))
    collections.OrderedDict.clear(thing)
    for key, value in fresh.items():
        collections.OrderedDict.__setitem__(thing, key, value)


def _same_ordered_dict(thing: Any, held: tuple[list[Any], list[Any]]) -> bool:
    keys, values = held
    return same_elements(collections.OrderedDict.keys(thing), keys) and same_elements(
        collections.OrderedDict.values(thing), values
    )


def _ordered_dict(d: Decoder) -> Any:
    d.skip()
    return d.shell(collections.OrderedDict(), ordered_dict_contents, wire.WEIGHT_SET)


def _default_dict(d: Decoder) -> Any:
    d.skip()
    return d.shell(collections.defaultdict(), default_dict_contents, wire.WEIGHT_DICT)


def default_dict_contents(d: Decoder, thing: Any) -> None:
    if d.peek() not in (Tag.NONE, Tag.NAMED):
        raise violation("a default factory that is no class")
    factory = d.value()
    if factory is not None and not callable(factory):
        raise violation("a default factory that is no class")
    held = d.pairs()
    d.fill_hashed(_fill_default_dict, thing, (factory, held), held[0], _same_default_dict)


def _fill_default_dict(thing: Any, held: Any) -> None:
    fill_dict(thing, held[1])
    _set_factory(thing, held[0])


def _same_default_dict(thing: Any, held: Any) -> bool:
    return _get_factory(thing) is held[0] and same_dict(thing, held[1])


_set_factory = vars(collections.defaultdict)["default_factory"].__set__
_get_factory = vars(collections.defaultdict)["default_factory"].__get__


def _counter(d: Decoder) -> Any:
    d.skip()
    return d.shell(collections.Counter(), dict_contents, wire.WEIGHT_SET)


def _set(d: Decoder) -> set[Any]:
    d.skip()
    return d.shell(set(), set_contents, wire.WEIGHT_SET)  # type: ignore[no-any-return]


def set_contents(d: Decoder, thing: Any) -> None:
    held = d.values()
    d.fill_hashed(fill_set, thing, held, held, same_set)


def fill_set(thing: Any, held: list[Any]) -> None:
    fresh = set(held)
    set.clear(thing)
    set.update(thing, fresh)


def same_set(thing: Any, held: list[Any]) -> bool:
    return set.__len__(thing) == len(held) and set(map(id, set.__iter__(thing))) == set(map(id, held))


def _bytearray(d: Decoder) -> bytearray:
    d.skip()
    return d.shell(bytearray(), bytearray_contents, wire.WEIGHT_LIST)  # type: ignore[no-any-return]


def bytearray_contents(d: Decoder, thing: Any) -> None:
    d.fill(_fill_bytearray, thing, d.own_raw(), bytearray.__eq__)


def _fill_bytearray(thing: Any, held: Any) -> None:
    bytearray.__setitem__(thing, slice(None), held)


def _deque(d: Decoder) -> Any:
    d.skip()
    return d.shell(collections.deque(maxlen=read_maxlen(d)), deque_contents, wire.WEIGHT_DEQUE)


def read_maxlen(d: Decoder) -> int | None:
    n = int.from_bytes(d.take(8), "little")
    return n - 1 if n else None


def deque_contents(d: Decoder, thing: Any) -> None:
    held = d.values()
    if thing.maxlen is not None and len(held) > thing.maxlen:
        raise violation("a deque longer than its greatest length")
    d.fill(_fill_deque, thing, held, _same_deque)


def _fill_deque(thing: Any, held: list[Any]) -> None:
    collections.deque.clear(thing)
    collections.deque.extend(thing, held)


def _same_deque(thing: Any, held: list[Any]) -> bool:
    return same_sequence(list(collections.deque.__iter__(thing)), held)


def _array(d: Decoder) -> Any:
    d.skip()
    code, itemsize = d.take(2)
    typecode = chr(code)
    if typecode not in array.typecodes:
        raise violation(f"an array of type {typecode!r}")
    thing = array.array(typecode)
    if thing.itemsize != itemsize:
        raise violation(f"an array of {itemsize}-byte {typecode!r}; here they have {thing.itemsize}")
    return d.shell(thing, array_contents, wire.WEIGHT_DICT)


def array_contents(d: Decoder, thing: Any) -> None:
    raw = d.own_raw()
    if len(raw) % thing.itemsize:
        raise violation("an array with half an element")
    fresh = array.array(thing.typecode)
    fresh.frombytes(raw)
    if sys.byteorder != "little":  # pragma: no cover - no big-endian machine here
        fresh.byteswap()
    if fresh.typecode == "u":
        fresh.tounicode()  # raises for what is no character
    d.fill(_fill_array, thing, fresh, _same_array)


def _fill_array(thing: Any, held: Any) -> None:
    thing[:] = held


def _same_array(thing: Any, held: Any) -> bool:
    same: bool = len(thing) == len(held) and thing.tobytes() == held.tobytes()
    return same


READERS: dict[Tag, Callable[[Decoder], Any]] = {
    Tag.LIST: _list,
    Tag.DICT: _dict,
    Tag.SET: _set,
    Tag.BYTEARRAY: _bytearray,
    Tag.DEQUE: _deque,
    Tag.ORDERED_DICT: _ordered_dict,
    Tag.DEFAULT_DICT: _default_dict,
    Tag.COUNTER: _counter,
    Tag.ARRAY: _array,
}

# Contents by exact type, for objects of a request that a call changed.
CONTENTS: dict[type, Contents] = {
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
