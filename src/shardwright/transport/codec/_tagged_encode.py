"""Encoding with tags.

An immutable value is written in place. A mutable object is written as a *shell* (its type alone) where it is first
met, gets the next number of the memo, and its contents are written later, one object after the other in the order of
their numbers. So cycles need no care, nesting needs no recursion, and the contents of an object that a call changed are
written in the very same form. Where contents are needed at once, because an immutable value looks at them when it is
made (elements of a frozenset are hashed), a new shell is preceded by NOW and followed by its contents, and a shell that
stands already gets them by FILL before it is named.

One file beyond 400 lines: one dispatch table, whose functions mirror those of ``_tagged_decode`` line by line.
"""

from __future__ import annotations

import array
import collections
import re
import struct
import sys
import types
from bisect import bisect_left
from collections.abc import Callable
from enum import Enum, Flag
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from shardwright.errors import MessageTooLarge
from shardwright.transport.codec import _wire as wire
from shardwright.transport.codec._classes import ClassPlan, instance_dict
from shardwright.transport.codec._paths import children
from shardwright.transport.codec._wire import LARGE_BYTES, SHARED_BYTES, Kind, Refusal, Tag

if TYPE_CHECKING:
    from shardwright.transport.codec._tagged import TaggedCodec

__all__ = ["Encoder", "encode_named"]

Encode = Callable[["Encoder", Any], None]

_INT_4 = struct.Struct("<Bi")
_INT_8 = struct.Struct("<Bq")
_FLOAT = struct.Struct("<Bd")
_COMPLEX = struct.Struct("<Bdd")
_REFERENCE_1 = [bytes((Tag.REFERENCE, n)) for n in range(wire.NUMBER_1_BYTE)]


class Encoder:
    """One message being written."""

    __slots__ = (
        "attribute_names",
        "base",
        "buffers",
        "building",
        "classes",
        "codec",
        "depth",
        "dispatch",
        "filled",
        "frontier",
        "items",
        "now",
        "numbers",
        "objects",
        "open",
        "out",
        "queue",
        "trial",
    )

    def __init__(self, codec: TaggedCodec, known: list[Any]) -> None:
        self.codec = codec
        self.dispatch = codec._encoders
        self.out = bytearray()
        self.objects: list[Any] = known.copy() if known else []
        self.numbers: dict[int, int] = {id(thing): n for n, thing in enumerate(known)} if known else {}
        self.base = len(self.objects)
        self.frontier = self.base - 1  # the number of the object whose contents were begun last
        self.queue: list[tuple[int, Encode, Any]] = []
        self.buffers: list[bytes | memoryview] = []
        self.classes: dict[str, int] = {}
        self.attribute_names: dict[type, tuple[str, ...]] = {}
        self.filled: set[int] = set()
        self.building: set[int] = set()  # tuples whose elements are being written
        self.open: set[int] = set()  # objects whose contents are being written because a hash needs them
        self.depth = 0
        self.items = 0
        self.now = False
        self.trial = False

    def value(self, value: object) -> None:
        self.dispatch[type(value)](self, value)

    def drain(self) -> None:
        """Write the contents of every shell; new shells join the end of the queue."""
        queue = self.queue
        filled = self.filled
        limits = self.codec.limits
        done = 0
        while done < len(queue):
            if done & 0x3FF == 0x3FF:
                self.check()
            number, contents, thing = queue[done]
            done += 1
            if number >= self.base:
                self.frontier = number
                if number in filled:
                    continue
            contents(self, thing)
        if self.items > limits.max_items or len(self.out) > limits.max_bytes or self.buffers:
            self.check()

    def check(self) -> None:
        limits = self.codec.limits
        size = len(self.out) + sum(map(len, self.buffers))
        if size > limits.max_bytes:
            raise MessageTooLarge(
                f"a message of at least {size} bytes; this edge permits {limits.max_bytes}",
                outcome="not started",
                remedy="send less at once, or raise the edge's limit",
            )
        if self.items > limits.max_items:
            raise MessageTooLarge(
                f"a message of at least {self.items} items; this edge permits {limits.max_items}",
                outcome="not started",
                remedy="send less at once, or raise the edge's limit",
            )

    def remember(self, thing: object) -> int:
        number = len(self.objects)
        self.objects.append(thing)
        self.numbers[id(thing)] = number
        return number

    def known(self, thing: object) -> bool:
        """Write a reference if the object was met before."""
        number = self.numbers.get(id(thing))
        if number is None:
            return False
        if self.now and id(thing) not in self.open:
            self.complete(thing)
        if number < wire.NUMBER_1_BYTE:
            self.out += _REFERENCE_1[number]
        else:
            self.out.append(Tag.REFERENCE)
            self.number(number)
        return True

    def complete(self, thing: object) -> None:
        """A hash will look at a known object: write now whatever contents it, or what it leads to, still awaits."""
        seen = {id(thing)}
        stack = [thing]
        while stack:
            thing = stack.pop()
            number = self.numbers.get(id(thing))
            if number is None:
                continue  # not met yet: then it is an element of something that is being written
            if number > self.frontier and number not in self.filled:
                at = bisect_left(self.queue, number, key=itemgetter(0))
                if at < len(self.queue) and self.queue[at][0] == number:
                    self.out.append(Tag.FILL)
                    self.number(number)
                    self.at_once(thing, number, self.queue[at][1])
                    continue
            for _, child in children(thing):
                if id(child) not in seen and id(child) not in self.open and type(child) not in wire.ATOMS:
                    seen.add(id(child))
                    stack.append(child)

    def shell(self, thing: object, head: bytes, contents: Encode, weight: int) -> None:
        """Write a new mutable object: its type here, its contents when their turn comes."""
        number = self.remember(thing)
        self.items += weight
        if self.now:
            self.out.append(Tag.NOW)
            self.out += head
            self.at_once(thing, number, contents)
        else:
            self.out += head
            self.queue.append((number, contents, thing))

    def at_once(self, thing: object, number: int, contents: Encode) -> None:
        self.filled.add(number)
        self.enter(thing, wire.NOW_LEVELS)
        self.open.add(id(thing))
        contents(self, thing)
        self.open.discard(id(thing))
        self.depth -= wire.NOW_LEVELS

    def enter(self, thing: object, levels: int = 1) -> None:
        self.depth += levels
        if self.depth > self.codec.limits.max_depth:
            raise Refusal(
                thing,
                f"tuples or hashed keys nested more than {self.codec.limits.max_depth} deep",
                "use lists or instances, which may be nested without limit",
            )

    def number(self, n: int) -> None:
        if n < wire.NUMBER_1_BYTE:
            self.out.append(n)
        else:
            size = (n.bit_length() + 7) >> 3
            self.out.append(wire.NUMBER_1_BYTE - 1 + size)
            self.out += n.to_bytes(size, "little")

    def text(self, text: str) -> None:
        """A string without a tag, where nothing but a string can stand."""
        raw = text.encode("utf-8", "surrogatepass")
        self.number(len(raw))
        self.out += raw

    def class_name(self, name: str) -> None:
        number = self.classes.get(name)
        if number is None:
            number = self.classes[name] = len(self.classes)
            self.number(number)
            self.text(name)
        else:
            self.number(number)


# -- scalars ---------------------------------------------------------------------------------------------------


def _none(s: Encoder, _: Any) -> None:
    s.out.append(0)


def _bool(s: Encoder, value: bool) -> None:
    s.out.append(1 if value else 2)


def _ellipsis(s: Encoder, _: Any) -> None:
    s.out.append(3)


def _not_implemented(s: Encoder, _: Any) -> None:
    s.out.append(4)


def encode_int(s: Encoder, value: int) -> None:
    if -128 <= value < 128:
        out = s.out
        out.append(5)
        out.append(value & 0xFF)
    elif -0x80000000 <= value < 0x80000000:
        s.out += _INT_4.pack(6, value)
    elif -0x8000000000000000 <= value < 0x8000000000000000:
        s.out += _INT_8.pack(7, value)
    else:
        size = value.bit_length() // 8 + 1
        s.out.append(8)
        s.number(size)
        s.out += value.to_bytes(size, "little", signed=True)


def _float(s: Encoder, value: float) -> None:
    s.out += _FLOAT.pack(9, value)


def _complex(s: Encoder, value: complex) -> None:
    s.out += _COMPLEX.pack(10, value.real, value.imag)


def encode_str(s: Encoder, value: str) -> None:
    out = s.out
    if len(value) >= SHARED_BYTES // 4:
        if s.known(value):
            return
        tag = 11
        try:
            raw = value.encode()
        except UnicodeEncodeError:
            tag = 12
            raw = value.encode("utf-8", "surrogatepass")
        out.append(tag)
        s.number(len(raw))
        out += raw
        if len(raw) >= SHARED_BYTES:
            s.remember(value)
        return
    try:
        raw = value.encode()
        out.append(11)
    except UnicodeEncodeError:
        raw = value.encode("utf-8", "surrogatepass")
        out.append(12)
    out.append(len(raw))
    out += raw


def encode_bytes(s: Encoder, value: bytes) -> None:
    size = len(value)
    if size >= SHARED_BYTES:
        if s.known(value):
            return
        if size >= LARGE_BYTES:
            s.out.append(Tag.BYTES_BUFFER)
            s.buffers.append(value)
        else:
            s.out.append(13)
            s.number(size)
            s.out += value
        s.remember(value)
        return
    s.out.append(13)
    s.out.append(size)
    s.out += value


# -- immutable containers --------------------------------------------------------------------------------------


def encode_tuple(s: Encoder, value: tuple[Any, ...]) -> None:
    if not value:
        s.out.append(16)
        return
    if s.known(value):
        return
    s.out.append(17)
    _elements(s, value, value)
    s.remember(value)


def _elements(s: Encoder, value: object, elements: Any) -> None:
    count = len(elements)
    s.number(count)
    s.items += count
    s.enter(value)
    building = s.building
    if building and id(value) in building:  # only by way of contents that a hash needed at once
        raise Refusal(value, "a tuple that a frozenset in it leads back to", "use a set, or break the cycle")
    building.add(id(value))
    dispatch = s.dispatch
    for element in elements:
        dispatch[type(element)](s, element)
    building.discard(id(value))
    s.depth -= 1


def _frozenset(s: Encoder, value: frozenset[Any]) -> None:
    if s.known(value):
        return
    s.out.append(Tag.FROZENSET)
    s.number(len(value))
    s.items += len(value) + wire.WEIGHT_SET
    s.enter(value)
    before, s.now = s.now, True  # unlike a set it cannot be made first and filled later
    try:
        for element in value:
            if s.open and _leads_to(element, s.open):
                raise Refusal(
                    value,
                    "a frozenset that an element of its own leads to",
                    "use a set, or break the cycle",
                )
            s.value(element)
    finally:
        s.now = before
    s.depth -= 1
    s.remember(value)


def _leads_to(element: Any, numbers: set[int]) -> bool:
    if id(element) in numbers:
        own: Any = type(element)
        return own.__hash__ is not object.__hash__
    return isinstance(element, tuple | frozenset) and any(_leads_to(inner, numbers) for inner in element)


def _slice(s: Encoder, value: slice) -> None:
    if s.known(value):
        return
    s.out.append(Tag.SLICE)
    s.enter(value)
    s.value(value.start)
    s.value(value.stop)
    s.value(value.step)
    s.depth -= 1
    s.remember(value)


def _range(s: Encoder, value: range) -> None:
    if s.known(value):
        return
    s.out.append(Tag.RANGE)
    encode_int(s, int(value.start))
    encode_int(s, int(value.stop))
    encode_int(s, int(value.step))
    s.remember(value)


# -- mutable containers: shell now, contents later -------------------------------------------------------------


def _list(s: Encoder, value: list[Any]) -> None:
    if not s.known(value):
        s.shell(value, b"\x20", list_contents, wire.WEIGHT_LIST)


def list_contents(s: Encoder, value: Any) -> None:
    count = list.__len__(value)
    s.number(count)
    s.items += count
    dispatch = s.dispatch
    for element in list.__iter__(value):
        dispatch[type(element)](s, element)


def _dict(s: Encoder, value: dict[Any, Any]) -> None:
    if not s.known(value):
        s.shell(value, b"\x21", dict_contents, wire.WEIGHT_DICT)


def dict_contents(s: Encoder, value: Any) -> None:
    _pairs(s, dict.__len__(value), dict.items(value))


def _pairs(s: Encoder, count: int, pairs: Any) -> None:
    s.number(count)
    s.items += 2 * count
    dispatch = s.dispatch
    for key, value in pairs:
        dispatch[type(key)](s, key)
        dispatch[type(value)](s, value)


def _set(s: Encoder, value: set[Any]) -> None:
    if not s.known(value):
        s.shell(value, b"\x22", set_contents, wire.WEIGHT_SET)


def set_contents(s: Encoder, value: Any) -> None:
    count = set.__len__(value)
    s.number(count)
    s.items += count
    dispatch = s.dispatch
    for element in set.__iter__(value):
        dispatch[type(element)](s, element)


def _bytearray(s: Encoder, value: bytearray) -> None:
    if not s.known(value):
        s.shell(value, b"\x23", bytearray_contents, wire.WEIGHT_LIST)


def bytearray_contents(s: Encoder, value: Any) -> None:
    raw_contents(s, bytes(value))


def raw_contents(s: Encoder, raw: bytes) -> None:
    """Bytes that belong to one object alone: in band with their length, or 0xFF and the next buffer."""
    if len(raw) >= LARGE_BYTES:
        s.out.append(0xFF)
        s.buffers.append(raw)
    else:
        s.number(len(raw))
        s.out += raw


def _deque(s: Encoder, value: collections.deque[Any]) -> None:
    if not s.known(value):
        s.shell(value, b"\x24" + maxlen(value), deque_contents, wire.WEIGHT_DEQUE)


def maxlen(value: collections.deque[Any]) -> bytes:
    """0 for none, else one more than the greatest length, as eight bytes."""
    return (0 if value.maxlen is None else value.maxlen + 1).to_bytes(8, "little")


def deque_contents(s: Encoder, value: Any) -> None:
    elements = list(collections.deque.__iter__(value))
    s.number(len(elements))
    s.items += len(elements)
    dispatch = s.dispatch
    for element in elements:
        dispatch[type(element)](s, element)


def _ordered_dict(s: Encoder, value: Any) -> None:
    if not s.known(value):
        s.shell(value, b"\x25", ordered_dict_contents, wire.WEIGHT_SET)


def ordered_dict_contents(s: Encoder, value: Any) -> None:
    _pairs(s, dict.__len__(value), collections.OrderedDict.items(value))


def _default_dict(s: Encoder, value: Any) -> None:
    if not s.known(value):
        s.shell(value, b"\x26", default_dict_contents, wire.WEIGHT_DICT)


def default_dict_contents(s: Encoder, value: Any) -> None:
    factory = value.default_factory
    if factory is not None and not encode_named(s, factory):
        raise Refusal(factory, f"default factory {factory!r}", "use a builtin type or a listed class")
    if factory is None:
        s.out.append(Tag.NONE)
    dict_contents(s, value)


def _counter(s: Encoder, value: Any) -> None:
    if instance_dict(value):
        raise Refusal(value, "a Counter with attributes of its own")
    if not s.known(value):
        s.shell(value, b"\x27", dict_contents, wire.WEIGHT_SET)


def _array(s: Encoder, value: array.array[Any]) -> None:
    if not s.known(value):
        s.shell(value, b"\x28" + value.typecode.encode() + bytes((value.itemsize,)), array_contents, wire.WEIGHT_DICT)


def array_contents(s: Encoder, value: array.array[Any]) -> None:
    raw_contents(s, value.tobytes() if sys.byteorder == "little" else _swapped(value))


def _swapped(value: array.array[Any]) -> bytes:  # pragma: no cover - no big-endian machine here
    swapped = array.array(value.typecode, value)
    swapped.byteswap()
    return swapped.tobytes()


# -- by name ---------------------------------------------------------------------------------------------------


def encode_named(s: Encoder, value: Any) -> bool:
    """A class or function of the fixed list or of the edge's table; False when it is neither."""
    name = s.codec.name_of(value)
    if name is None:
        return False
    s.out.append(Tag.NAMED)
    s.class_name(name)
    return True


def _type(s: Encoder, value: type) -> None:
    if not encode_named(s, value) and not s.codec._handle(s, value):
        raise Refusal(
            value,
            f"class {value.__module__}.{value.__qualname__}",
            "only classes that both sides of this edge know can be passed; list it as a value class",
        )


def encode_function(s: Encoder, value: Any) -> None:
    if not encode_named(s, value) and not s.codec._handle(s, value):
        raise Refusal(
            value,
            f"function {getattr(value, '__qualname__', value)!r}",
            "define it in the component that calls it: what a script or notebook defines exists there alone"
            if getattr(value, "__module__", None) == "__main__"
            else "functions do not cross unless both sides know them by name: pass data, or keep both sides together",
        )


def _refused(what: str, remedy: str) -> Encode:
    def encode(s: Encoder, value: Any) -> None:
        if not s.codec._handle(s, value):
            raise Refusal(value, what, remedy)

    return encode


# -- instances of listed classes -------------------------------------------------------------------------------


def instance_encoder(plan: ClassPlan) -> Encode:
    """The encoder of a listed class's instances."""
    if plan.kind is Kind.ENUM:
        return _member(plan)
    contents = contents_of(plan)
    name = plan.name
    if plan.kind is Kind.VALUE:
        base = plan.base
        encode_base = BASE_ENCODERS[base]

        def encode_value(s: Encoder, value: Any) -> None:
            if s.codec._handle(s, value) or s.known(value):
                return
            s.out.append(Tag.VALUE_OBJECT)
            s.class_name(name)
            if base is tuple:
                _elements(s, value, tuple(tuple.__iter__(value)))
            else:
                encode_base(s, _plain_value(base, value))
            s.items += wire.WEIGHT_OBJECT
            number = s.remember(value)
            if not plan.has_state:
                return
            s.out.append(1 if s.now else 0)
            if s.now:
                s.at_once(value, number, contents)
            else:
                s.queue.append((number, contents, value))

        return encode_value

    def encode(s: Encoder, value: Any) -> None:
        if s.codec._handle(s, value) or s.known(value):
            return
        # the name stands before NOW's contents, so it is written into a head of its own
        out = s.out
        s.out = bytearray((Tag.OBJECT,))
        s.class_name(name)
        if plan.kind is Kind.DEQUE:
            s.out += maxlen(value)
        head, s.out = bytes(s.out), out
        s.shell(value, head, contents, wire.WEIGHT_DEQUE if plan.kind is Kind.DEQUE else wire.WEIGHT_OBJECT)

    return encode


def _plain_value(base: type, value: Any) -> Any:
    if base is frozenset:
        return frozenset(frozenset.__iter__(value))
    if base is str:
        return str.__getitem__(value, slice(None))
    if base is bytes:
        return bytes.__getitem__(value, slice(None))
    if base is int:
        return int.__int__(value)
    if base is float:
        return float.__float__(value)
    return complex(value.real, value.imag) if base is complex else value


def _member(plan: ClassPlan) -> Encode:
    name = plan.name
    members: dict[str, Any] = vars(plan.cls)["_member_map_"]

    def encode(s: Encoder, value: Enum) -> None:
        member: Any = value._name_
        if type(member) is str and members.get(member) is value:
            s.out.append(Tag.ENUM)
            s.class_name(name)
            s.text(member)
        elif isinstance(value, Flag):
            s.out.append(Tag.FLAG)
            s.class_name(name)
            encode_int(s, int(value._value_))
        else:
            raise Refusal(value, f"{value!r}, which is no member of {name}")

    return encode


_FIRST_CONTENTS: dict[Kind, Encode] = {
    Kind.LIST: list_contents,
    Kind.DICT: dict_contents,
    Kind.SET: set_contents,
    Kind.DEQUE: deque_contents,
    Kind.ORDERED_DICT: ordered_dict_contents,
    Kind.DEFAULT_DICT: default_dict_contents,
    Kind.BYTEARRAY: bytearray_contents,
}


def contents_of(plan: ClassPlan) -> Encode:
    first = _FIRST_CONTENTS.get(plan.kind)
    cls = plan.cls
    has_dict = plan.has_dict
    slots = plan.slots

    def contents(s: Encoder, value: Any) -> None:
        if first is not None:
            first(s, value)
        if has_dict:
            write_attributes(s, cls, instance_dict(value), value)
        if slots:
            write_slots(s, slots, value)

    return contents


def write_attributes(s: Encoder, cls: type, state: dict[str, Any], owner: object) -> None:
    """The names once per class and message, unless they differ from the last instance's; then the values."""
    if state is owner:
        s.number(2)
        return
    if "__orig_class__" in state:  # what typing leaves on an instance of Box[int]: no meaning at run time
        state = {name: value for name, value in state.items() if name != "__orig_class__"}
    names = tuple(state)
    if s.attribute_names.get(cls) == names:
        s.number(0)
    else:
        s.number(1)
        s.number(len(names))
        for name in names:
            if type(name) is not str:
                raise Refusal(owner, f"an attribute called {name!r}")
            s.text(name)
        s.attribute_names[cls] = names
    s.items += 2 * len(names)
    dispatch = s.dispatch
    for value in state.values():
        dispatch[type(value)](s, value)


def write_slots(s: Encoder, slots: tuple[tuple[str, Any], ...], owner: object) -> None:
    s.number(len(slots))
    s.items += len(slots)
    for _, descriptor in slots:
        try:
            value = descriptor.__get__(owner)
        except AttributeError:
            s.out.append(Tag.UNSET)
        else:
            s.value(value)


BASE_ENCODERS: dict[type, Encode] = {
    type(None): _none,
    bool: _bool,
    type(...): _ellipsis,
    type(NotImplemented): _not_implemented,
    int: encode_int,
    float: _float,
    complex: _complex,
    str: encode_str,
    bytes: encode_bytes,
    tuple: encode_tuple,
    frozenset: _frozenset,
    slice: _slice,
    range: _range,
    list: _list,
    dict: _dict,
    set: _set,
    bytearray: _bytearray,
    collections.deque: _deque,
    collections.OrderedDict: _ordered_dict,
    collections.defaultdict: _default_dict,
    collections.Counter: _counter,
    array.array: _array,
    type: _type,
    types.FunctionType: encode_function,
    types.BuiltinFunctionType: encode_function,
    types.MethodType: _refused("a bound method", "pass the object and call its method there, or pass data"),
    memoryview: _refused("a memoryview", "pass bytes(view), or the object that it looks into"),
    types.GeneratorType: _refused("a generator", "pass a list of its elements"),
    types.CoroutineType: _refused("a coroutine", "await it, and pass the result"),
    types.ModuleType: _refused("a module", "import it on the other side"),
    re.Match: _refused("a match object", "pass match.groups() or match.groupdict()"),
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
