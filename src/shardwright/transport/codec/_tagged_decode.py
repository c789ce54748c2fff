"""Decoding with tags: the mirror of ``_tagged_encode``, for input that may be hostile.

Every length is compared with the bytes that are left before anything of that size is made, every new object is
charged against ``max_items``, recursion is bounded by ``max_depth`` (only immutable values and hashed keys recurse),
each buffer is used exactly once. No code of a listed class runs but ``__hash__`` and ``__eq__`` of keys.

One file beyond 400 lines: one dispatch table, whose functions mirror those of ``_tagged_encode`` line by line.
"""

from __future__ import annotations

import array
import collections
import struct
import sys
from bisect import bisect_left
from collections.abc import Callable, Sequence
from enum import Flag
from operator import is_, itemgetter
from typing import TYPE_CHECKING, Any

from shardwright.transport.codec import _wire as wire
from shardwright.transport.codec._classes import ClassPlan, instance_dict
from shardwright.transport.codec._memo import Compare, Snapshot, same_elements, same_sequence
from shardwright.transport.codec._paths import children
from shardwright.transport.codec._wire import SHARED_BYTES, Kind, Tag, violation

if TYPE_CHECKING:
    from shardwright.transport.codec._tagged import TaggedCodec

__all__ = ["Decoder", "read_attributes", "read_slots"]

Contents = Callable[["Decoder", Any], None]
Fill = Callable[[Any, Any], None]

_INT_4 = struct.Struct("<i")
_INT_8 = struct.Struct("<q")
_FLOAT = struct.Struct("<d")
_COMPLEX = struct.Struct("<dd")
_UNSET = object()


class Decoder:
    """One message being read."""

    __slots__ = (
        "at",
        "attribute_names",
        "base",
        "buffers",
        "classes",
        "codec",
        "depth",
        "end",
        "filled",
        "frontier",
        "hashing",
        "items",
        "later",
        "next_buffer",
        "now",
        "objects",
        "open",
        "queue",
        "raw",
        "snapshots",
    )

    def __init__(
        self,
        codec: TaggedCodec,
        payload: bytes | bytearray | memoryview,
        buffers: Sequence[bytes | memoryview],
        known: list[Any],
        snapshots: list[Snapshot] | None,
    ) -> None:
        size = len(payload) + sum(map(len, buffers)) if buffers else len(payload)
        if size > codec.limits.max_bytes:
            raise violation(f"{size} bytes; this edge permits {codec.limits.max_bytes}")
        self.codec = codec
        self.raw = payload if type(payload) is bytes else bytes(payload)  # a copy: the peer may still write
        self.at = 0
        self.end = len(self.raw)
        self.buffers = buffers
        self.next_buffer = 0
        self.objects: list[Any] = known.copy() if known else []
        self.base = len(self.objects)
        self.frontier = self.base - 1
        self.queue: list[tuple[int, Contents, Any]] = []
        self.filled: set[int] = set()
        self.open: set[int] = set()  # objects whose contents are being read because a hash needs them
        self.classes: list[str] = []
        self.attribute_names: dict[type, list[str]] = {}
        self.depth = codec.limits.max_depth
        self.items = codec.limits.max_items
        self.snapshots = snapshots
        self.later: list[tuple[Fill, Any, Any]] | None = None
        self.hashing: dict[int, tuple[Fill, Any, Any, list[Any]]] = {}
        self.now = False

    def value(self) -> Any:
        return DISPATCH[self.raw[self.at]](self)

    def drain(self) -> None:
        queue = self.queue
        filled = self.filled
        done = 0
        while done < len(queue):
            number, contents, thing = queue[done]
            done += 1
            if number >= self.base:
                self.frontier = number
                if number in filled:
                    continue
            contents(self, thing)
        if self.at != self.end:
            raise violation(f"{self.end - self.at} bytes left over")
        if self.next_buffer != len(self.buffers):
            raise violation(f"{len(self.buffers) - self.next_buffer} buffers left over")

    def number(self) -> int:
        at = self.at
        n = self.raw[at]
        if n < wire.NUMBER_1_BYTE:
            self.at = at + 1
            return n
        stop = at + 2 + n - wire.NUMBER_1_BYTE
        if n == 0xFF or stop > self.end:
            raise violation("a number is cut short")
        self.at = stop
        return int.from_bytes(self.raw[at + 1 : stop], "little")

    def count(self, weight: int = 1) -> int:
        """A count of things that take at least a byte each, charged."""
        n = self.number()
        if n > self.end - self.at:
            raise violation(f"{n} elements announced, {self.end - self.at} bytes left")
        self.charge(n * weight)
        return n

    def charge(self, items: int) -> None:
        self.items -= items
        if self.items < 0:
            raise violation(f"more than {self.codec.limits.max_items} items")

    def take(self, size: int) -> bytes:
        at = self.at
        stop = at + size
        if stop > self.end:
            raise violation(f"{size} bytes announced, {self.end - at} left")
        self.at = stop
        return self.raw[at:stop]

    def text(self) -> str:
        return self.take(self.number()).decode("utf-8", "surrogatepass")

    def buffer(self) -> bytes | memoryview:
        n = self.next_buffer
        if n >= len(self.buffers):
            raise violation("a buffer is missing")
        self.next_buffer = n + 1
        return self.buffers[n]

    def own_raw(self) -> bytes | memoryview:
        """What ``raw_contents`` wrote."""
        if self.raw[self.at] == 0xFF:
            self.at += 1
            return self.buffer()
        return self.take(self.number())

    def class_name(self) -> str:
        n = self.number()
        classes = self.classes
        if n == len(classes):
            classes.append(self.text())
        elif n > len(classes):
            raise violation(f"class number {n} of {len(classes)}")
        return classes[n]

    def class_plan(self) -> ClassPlan:
        name = self.class_name()
        try:
            return self.codec.classes.plan_named(name)
        except Exception as error:
            raise violation(f"class {name!r}: {error}") from None

    def enter(self, levels: int = 1) -> None:
        self.depth -= levels
        if self.depth < 0:
            raise violation(f"nested more than {self.codec.limits.max_depth} deep")

    def shell(self, thing: Any, contents: Contents, weight: int) -> Any:
        self.items -= weight
        if self.items < 0:
            raise violation(f"more than {self.codec.limits.max_items} items")
        objects = self.objects
        self.queue.append((len(objects), contents, thing))
        objects.append(thing)
        return thing

    def fill(self, fill: Fill, thing: Any, held: Any, unchanged: Compare) -> None:
        """Put the contents into the object; in a reply that changes something, when all of it has been read."""
        if self.later is None or self.now:
            fill(thing, held)
        else:
            self.later.append((fill, thing, held))
        if self.snapshots is not None:
            self.snapshots.append((thing, held, unchanged))

    def fill_hashed(self, fill: Fill, thing: Any, held: Any, keys: list[Any], unchanged: Compare) -> None:
        """The same for what hashes its keys: these must be complete first."""
        if self.now:
            ready = not any(_leads_to(key, self.open) for key in keys)
        else:
            ready = self.later is None and all(map(_plain, keys))
        if ready:
            fill(thing, held)
        else:
            self.hashing[id(thing)] = (fill, thing, held, keys)
        if self.snapshots is not None:
            self.snapshots.append((thing, held, unchanged))

    def settle(self) -> None:
        """Everything has been read: fill what had to wait."""
        if self.later is not None:
            for fill, thing, held in self.later:
                fill(thing, held)
        waiting = self.hashing
        looks = _MOST_LOOKS
        while waiting:
            # The keys of one may lead to another that waits: that one first. Where they lead back, any order will do.
            stack: list[tuple[int, bool]] = [(next(iter(waiting)), False)]
            chosen: dict[int, Any] = {}
            while stack:
                number, ready = stack.pop()
                if ready:
                    fill, thing, held, _ = chosen[number]
                    fill(thing, held)
                    continue
                entry = waiting.pop(number, None)
                if entry is None:
                    continue
                chosen[number] = entry
                keys = entry[3]
                frontier = list(keys) if len(chosen) == 1 else [*keys, *_values(entry[2])]
                stack.append((number, True))
                seen = set()
                while frontier and looks:
                    looks -= 1
                    held = frontier.pop()
                    if type(held) in wire.ATOMS or id(held) in seen:
                        continue
                    seen.add(id(held))
                    if id(held) in waiting:
                        stack.append((id(held), False))
                    else:
                        frontier.extend(child for _, child in children(held))


_MOST_LOOKS = 1_000_000  # for the right order; beyond, things are filled in the order of their numbers


def _plain(key: Any) -> bool:
    return type(key) in wire.ATOMS or (type(key) is tuple and all(map(_plain, key)))


def _leads_to(key: Any, numbers: set[int]) -> bool:
    return id(key) in numbers or (type(key) is tuple and any(_leads_to(inner, numbers) for inner in key))


def _values(held: Any) -> Any:
    """The values of what ``_pairs`` read, also inside a default dict's contents; none for a set."""
    if type(held) is tuple:
        return held[1] if type(held[1]) is list else held[1][1]
    return ()


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


def _int_4(d: Decoder) -> int:
    at = d.at + 1
    d.at = at + 4
    n: int = _INT_4.unpack_from(d.raw, at)[0]
    return n


def _int_8(d: Decoder) -> int:
    at = d.at + 1
    d.at = at + 8
    n: int = _INT_8.unpack_from(d.raw, at)[0]
    return n


def _int_any(d: Decoder) -> int:
    d.at += 1
    return int.from_bytes(d.take(d.number()), "little", signed=True)


def _float(d: Decoder) -> float:
    at = d.at + 1
    d.at = at + 8
    x: float = _FLOAT.unpack_from(d.raw, at)[0]
    return x


def _complex(d: Decoder) -> complex:
    at = d.at + 1
    d.at = at + 16
    return complex(*_COMPLEX.unpack_from(d.raw, at))


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
    value = tuple(elements(d))
    d.objects.append(value)
    return value


def elements(d: Decoder) -> list[Any]:
    """A count and so many values, one level deeper."""
    n = d.count()
    d.depth -= 1
    if d.depth < 0:
        raise violation(f"nested more than {d.codec.limits.max_depth} deep")
    raw = d.raw
    values = []
    for _ in range(n):  # no comprehension: in 3.11 it is a frame more per level
        values.append(DISPATCH[raw[d.at]](d))
    d.depth += 1
    return values


def _flat_elements(d: Decoder) -> list[Any]:
    n = d.count()
    raw = d.raw
    return [DISPATCH[raw[d.at]](d) for _ in range(n)]


def _frozenset(d: Decoder) -> frozenset[Any]:
    d.at += 1
    d.charge(wire.WEIGHT_SET)
    value = frozenset(elements(d))
    d.objects.append(value)
    return value


def _slice(d: Decoder) -> slice:
    d.at += 1
    d.enter()
    value = slice(d.value(), d.value(), d.value())
    d.depth += 1
    d.objects.append(value)
    return value


def _range(d: Decoder) -> range:
    d.at += 1
    start, stop, step = d.value(), d.value(), d.value()
    if type(start) is not int or type(stop) is not int or type(step) is not int:
        raise violation("a range of something else than integers")
    value = range(start, stop, step)
    d.objects.append(value)
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
    _contents_now(d, number, contents, thing)
    return thing


def _contents_now(d: Decoder, number: int, contents: Contents, thing: Any) -> None:
    d.filled.add(number)
    d.open.add(id(thing))
    d.enter(wire.NOW_LEVELS)
    before, d.now = d.now, True
    contents(d, thing)
    d.now = before
    d.open.discard(id(thing))
    d.depth += wire.NOW_LEVELS


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
        _contents_now(d, *queue[at])
    d.enter()
    value = d.value()
    d.depth += 1
    return value


# -- mutable containers ----------------------------------------------------------------------------------------


def _list(d: Decoder) -> list[Any]:
    d.at += 1
    return d.shell([], list_contents, wire.WEIGHT_LIST)  # type: ignore[no-any-return]


def list_contents(d: Decoder, thing: Any) -> None:
    d.fill(_fill_list, thing, _flat_elements(d), _same_list)


def _fill_list(thing: Any, held: list[Any]) -> None:
    list.__setitem__(thing, slice(None), held)


def _same_list(thing: Any, held: list[Any]) -> bool:
    return list.__len__(thing) == len(held) and all(map(is_, list.__iter__(thing), held))


def _dict(d: Decoder) -> dict[Any, Any]:
    d.at += 1
    return d.shell({}, dict_contents, wire.WEIGHT_DICT)  # type: ignore[no-any-return]


def _pairs(d: Decoder) -> tuple[list[Any], list[Any]]:
    n = d.count(2)
    raw = d.raw
    keys = []
    values = []
    for _ in range(n):
        keys.append(DISPATCH[raw[d.at]](d))
        values.append(DISPATCH[raw[d.at]](d))
    return keys, values


def dict_contents(d: Decoder, thing: Any) -> None:
    held = _pairs(d)
    d.fill_hashed(_fill_dict, thing, held, held[0], _same_dict)


def _fill_dict(thing: Any, held: tuple[list[Any], list[Any]]) -> None:
    fresh = dict(zip(*held, strict=True))  # hashes first, so that a failing one leaves the object as it was
    dict.clear(thing)
    dict.update(thing, fresh)


def _same_dict(thing: Any, held: tuple[list[Any], list[Any]]) -> bool:
    keys, values = held
    return (
        dict.__len__(thing) == len(keys)
        and all(map(is_, dict.__iter__(thing), keys))
        and all(map(is_, dict.values(thing), values))
    )


def ordered_dict_contents(d: Decoder, thing: Any) -> None:
    held = _pairs(d)
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
    d.at += 1
    return d.shell(collections.OrderedDict(), ordered_dict_contents, wire.WEIGHT_SET)


def _default_dict(d: Decoder) -> Any:
    d.at += 1
    return d.shell(collections.defaultdict(), default_dict_contents, wire.WEIGHT_DICT)


def default_dict_contents(d: Decoder, thing: Any) -> None:
    if d.raw[d.at] not in (Tag.NONE, Tag.NAMED):
        raise violation("a default factory that is no class")
    factory = d.value()
    if factory is not None and not callable(factory):
        raise violation("a default factory that is no class")
    held = _pairs(d)
    d.fill_hashed(_fill_default_dict, thing, (factory, held), held[0], _same_default_dict)


def _fill_default_dict(thing: Any, held: Any) -> None:
    _fill_dict(thing, held[1])
    _set_factory(thing, held[0])


def _same_default_dict(thing: Any, held: Any) -> bool:
    return _get_factory(thing) is held[0] and _same_dict(thing, held[1])


_set_factory = vars(collections.defaultdict)["default_factory"].__set__
_get_factory = vars(collections.defaultdict)["default_factory"].__get__


def _counter(d: Decoder) -> Any:
    d.at += 1
    return d.shell(collections.Counter(), dict_contents, wire.WEIGHT_SET)


def _set(d: Decoder) -> set[Any]:
    d.at += 1
    return d.shell(set(), set_contents, wire.WEIGHT_SET)  # type: ignore[no-any-return]


def set_contents(d: Decoder, thing: Any) -> None:
    held = _flat_elements(d)
    d.fill_hashed(_fill_set, thing, held, held, _same_set)


def _fill_set(thing: Any, held: list[Any]) -> None:
    fresh = set(held)
    set.clear(thing)
    set.update(thing, fresh)


def _same_set(thing: Any, held: list[Any]) -> bool:
    return set.__len__(thing) == len(held) and set(map(id, set.__iter__(thing))) == set(map(id, held))


def _bytearray(d: Decoder) -> bytearray:
    d.at += 1
    return d.shell(bytearray(), bytearray_contents, wire.WEIGHT_LIST)  # type: ignore[no-any-return]


def bytearray_contents(d: Decoder, thing: Any) -> None:
    d.fill(_fill_bytearray, thing, d.own_raw(), bytearray.__eq__)


def _fill_bytearray(thing: Any, held: Any) -> None:
    bytearray.__setitem__(thing, slice(None), held)


def _deque(d: Decoder) -> Any:
    d.at += 1
    return d.shell(collections.deque(maxlen=_maxlen(d)), deque_contents, wire.WEIGHT_DEQUE)


def _maxlen(d: Decoder) -> int | None:
    n = int.from_bytes(d.take(8), "little")
    return n - 1 if n else None


def deque_contents(d: Decoder, thing: Any) -> None:
    held = _flat_elements(d)
    if thing.maxlen is not None and len(held) > thing.maxlen:
        raise violation("a deque longer than its greatest length")
    d.fill(_fill_deque, thing, held, _same_deque)


def _fill_deque(thing: Any, held: list[Any]) -> None:
    collections.deque.clear(thing)
    collections.deque.extend(thing, held)


def _same_deque(thing: Any, held: list[Any]) -> bool:
    return same_sequence(list(collections.deque.__iter__(thing)), held)


def _array(d: Decoder) -> Any:
    d.at += 1
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


# -- by name, instances ----------------------------------------------------------------------------------------


def _named(d: Decoder) -> Any:
    d.at += 1
    name = d.class_name()
    try:
        return d.codec.object_of(name)
    except Exception as error:
        raise violation(f"name {name!r}: {error}") from None


def _enum(d: Decoder) -> Any:
    d.at += 1
    plan = d.class_plan()
    member = d.text()
    if plan.kind is not Kind.ENUM:
        raise violation(f"{plan.name} is no Enum")
    try:
        return vars(plan.cls)["_member_map_"][member]
    except KeyError:
        raise violation(f"{plan.name} has no member {member!r}") from None


def _flag(d: Decoder) -> Any:
    d.at += 1
    plan = d.class_plan()
    value = d.value()
    cls: Any = plan.cls
    if plan.kind is not Kind.ENUM or not issubclass(cls, Flag) or type(value) is not int:
        raise violation(f"{plan.name} is no Flag")
    member = vars(cls)["_value2member_map_"].get(value)
    if member is None:
        if value.bit_length() > 256:
            raise violation("a Flag of more than 256 bits")
        if cls._missing_.__func__ is not Flag._missing_.__func__:  # type: ignore[attr-defined]
            raise violation(f"{plan.name} has no member {value}")
        member = cls._missing_(value)
        if type(member) is not cls:
            raise violation(f"{plan.name} has no member {value}")
    return member


def _object(d: Decoder) -> Any:
    d.at += 1
    plan = d.class_plan()
    if plan.kind not in _MADE_EMPTY:
        raise violation(f"{plan.name} is not written as an object")
    new: Any = plan.base.__new__
    thing = new(plan.cls)
    if plan.kind is Kind.DEQUE:
        collections.deque.__init__(thing, (), _maxlen(d))
        return d.shell(thing, contents_of(plan), wire.WEIGHT_DEQUE)
    return d.shell(thing, contents_of(plan), wire.WEIGHT_OBJECT)


_MADE_EMPTY = frozenset(set(Kind) - {Kind.VALUE, Kind.ENUM, Kind.EXCEPTION})


def _value_object(d: Decoder) -> Any:
    d.at += 1
    plan = d.class_plan()
    if plan.kind is not Kind.VALUE:
        raise violation(f"{plan.name} is not written as a value")
    base: Any = plan.base
    if base is tuple:
        plain: Any = elements(d)
    else:
        d.enter()
        plain = d.value()
        d.depth += 1
        if type(plain) is not base:
            raise violation(f"{plan.name} from a {type(plain).__name__}")
    d.charge(wire.WEIGHT_OBJECT)
    value = base.__new__(plan.cls, plain.real, plain.imag) if base is complex else base.__new__(plan.cls, plain)
    number = len(d.objects)
    d.objects.append(value)
    if plan.has_state:
        now = d.number()
        contents = contents_of(plan)
        if now:
            _contents_now(d, number, contents, value)
        else:
            d.queue.append((number, contents, value))
    return value


_FIRST_CONTENTS: dict[Kind, Contents] = {
    Kind.LIST: list_contents,
    Kind.DICT: dict_contents,
    Kind.SET: set_contents,
    Kind.DEQUE: deque_contents,
    Kind.ORDERED_DICT: ordered_dict_contents,
    Kind.DEFAULT_DICT: default_dict_contents,
    Kind.BYTEARRAY: bytearray_contents,
}


def contents_of(plan: ClassPlan) -> Contents:
    first = _FIRST_CONTENTS.get(plan.kind)

    def contents(d: Decoder, thing: Any) -> None:
        if first is not None:
            first(d, thing)
        if plan.has_dict:
            read_attributes(d, thing)
        if plan.slots:
            read_slots(d, plan.slots, thing)

    return contents


def read_attributes(d: Decoder, thing: Any) -> None:
    cls = type(thing)
    form = d.number()
    if form == 2:
        if not isinstance(thing, dict):
            raise violation("attributes that are the object itself, which is no dict")
        d.fill(_fill_self, thing, None, _same_self)
        return
    if form == 0:
        names = d.attribute_names.get(cls)
        if names is None:
            raise violation("attribute names of an earlier instance, but there was none")
        d.charge(2 * len(names))
    elif form == 1:
        names = [d.text() for _ in range(d.count(2))]
        d.attribute_names[cls] = names
    else:
        raise violation(f"attributes of form {form}")
    raw = d.raw
    values = [DISPATCH[raw[d.at]](d) for _ in names]
    d.fill(_fill_attributes, thing, (names, values), _same_attributes)


def _fill_attributes(thing: Any, held: tuple[list[str], list[Any]]) -> None:
    state = instance_dict(thing)
    if state is thing:
        raise violation("attributes of an object that is its own attributes")
    if state:
        state.clear()
    state.update(zip(*held, strict=True))


def _same_attributes(thing: Any, held: tuple[list[str], list[Any]]) -> bool:
    state = instance_dict(thing)
    names, values = held
    return list(state) == names and all(map(is_, state.values(), values))


def _fill_self(thing: Any, _: None) -> None:
    object.__setattr__(thing, "__dict__", thing)


def _same_self(thing: Any, _: None) -> bool:
    return instance_dict(thing) is thing


def read_slots(d: Decoder, slots: tuple[tuple[str, Any], ...], thing: Any) -> None:
    if d.count() != len(slots):
        raise violation(f"{type(thing).__qualname__} has {len(slots)} slots")
    values = []
    for _ in slots:
        if d.raw[d.at] == Tag.UNSET:
            d.at += 1
            values.append(_UNSET)
        else:
            values.append(d.value())
    d.fill(_fill_slots, thing, (slots, values), _same_slots)


def _fill_slots(thing: Any, held: tuple[tuple[tuple[str, Any], ...], list[Any]]) -> None:
    for (_, descriptor), value in zip(*held, strict=True):
        if value is not _UNSET:
            descriptor.__set__(thing, value)
        elif _slot(descriptor, thing) is not _UNSET:
            descriptor.__delete__(thing)


def _same_slots(thing: Any, held: tuple[tuple[tuple[str, Any], ...], list[Any]]) -> bool:
    slots, values = held
    return all(_slot(descriptor, thing) is value for (_, descriptor), value in zip(slots, values, strict=True))


def _slot(descriptor: Any, thing: Any) -> Any:
    try:
        return descriptor.__get__(thing)
    except AttributeError:
        return _UNSET


def _handle(d: Decoder) -> Any:
    d.at += 1
    shard = d.text()
    object_id = int.from_bytes(d.take(8), "little")
    class_name = d.text()
    thing = d.codec._resolve_handle(shard, object_id, class_name)
    d.charge(wire.WEIGHT_OBJECT)
    d.objects.append(thing)
    return thing


def _unknown(d: Decoder) -> Any:
    raise violation(f"unknown tag {d.raw[d.at]:#04x}")


DISPATCH: list[Callable[[Decoder], Any]] = [_unknown] * 256
for _tag, _decode in {
    Tag.NONE: _constant(None),
    Tag.TRUE: _constant(True),
    Tag.FALSE: _constant(False),
    Tag.ELLIPSIS: _constant(...),
    Tag.NOT_IMPLEMENTED: _constant(NotImplemented),
    Tag.INT_1: _int_1,
    Tag.INT_4: _int_4,
    Tag.INT_8: _int_8,
    Tag.INT_ANY: _int_any,
    Tag.FLOAT: _float,
    Tag.COMPLEX: _complex,
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
    Tag.LIST: _list,
    Tag.DICT: _dict,
    Tag.SET: _set,
    Tag.BYTEARRAY: _bytearray,
    Tag.DEQUE: _deque,
    Tag.ORDERED_DICT: _ordered_dict,
    Tag.DEFAULT_DICT: _default_dict,
    Tag.COUNTER: _counter,
    Tag.ARRAY: _array,
    Tag.OBJECT: _object,
    Tag.VALUE_OBJECT: _value_object,
    Tag.ENUM: _enum,
    Tag.FLAG: _flag,
    Tag.NAMED: _named,
    Tag.HANDLE: _handle,
}.items():
    DISPATCH[_tag] = _decode

_SHELLS = {
    int(tag)
    for tag in (
        *(Tag.LIST, Tag.DICT, Tag.SET, Tag.BYTEARRAY, Tag.DEQUE, Tag.ORDERED_DICT, Tag.DEFAULT_DICT, Tag.COUNTER),
        *(Tag.ARRAY, Tag.OBJECT, Tag.NUMPY_ARRAY, Tag.EXCEPTION),
    )
}

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
