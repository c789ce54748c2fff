"""Reading enums, instances of listed classes, handles, and what is sent by name."""

from __future__ import annotations

import collections
from collections.abc import Callable
from enum import Flag
from operator import is_
from typing import Any

from shardwright.transport.codec import _wire as wire
from shardwright.transport.codec._classes import ClassPlan, instance_dict
from shardwright.transport.codec._decode_containers import (
    bytearray_contents,
    default_dict_contents,
    deque_contents,
    dict_contents,
    list_contents,
    ordered_dict_contents,
    read_maxlen,
    set_contents,
)
from shardwright.transport.codec._decoder import UNSET, Contents, Decoder, class_plan
from shardwright.transport.codec._wire import Kind, Tag, violation


def _named(d: Decoder) -> Any:
    d.skip()
    name = d.class_name()
    try:
        return d.codec.object_of(name)
    except Exception as error:
        raise violation(f"name {name!r}: {error}") from None


def _enum(d: Decoder) -> Any:
    d.skip()
    plan = class_plan(d, d.class_name())
    member = d.text()
    if plan.kind is not Kind.ENUM:
        raise violation(f"{plan.name} is no Enum")
    try:
        return vars(plan.cls)["_member_map_"][member]
    except KeyError:
        raise violation(f"{plan.name} has no member {member!r}") from None


def _flag(d: Decoder) -> Any:
    d.skip()
    plan = class_plan(d, d.class_name())
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
    d.skip()
    return object_of(d, class_plan(d, d.class_name()))


def plain_of(d: Decoder, name: str) -> tuple[type, bool, tuple[tuple[str, Any], ...]] | ClassPlan:
    """What the extension needs to know to make instances of a class by itself; the plan where it cannot."""
    plan = class_plan(d, name)
    if plan.kind is Kind.OBJECT and plan.base is object:
        return plan.cls, plan.has_dict, plan.slots
    return plan


def object_of(d: Decoder, plan: ClassPlan) -> Any:
    if plan.kind not in _MADE_EMPTY:
        raise violation(f"{plan.name} is not written as an object")
    new: Any = plan.base.__new__
    thing = new(plan.cls)
    if plan.kind is Kind.DEQUE:
        collections.deque.__init__(thing, (), read_maxlen(d))
        return d.shell(thing, contents_of(plan), wire.WEIGHT_DEQUE)
    return d.shell(thing, contents_of(plan), wire.WEIGHT_OBJECT)


_MADE_EMPTY = frozenset(set(Kind) - {Kind.VALUE, Kind.ENUM, Kind.EXCEPTION})


def _value_object(d: Decoder) -> Any:
    d.skip()
    plan = class_plan(d, d.class_name())
    if plan.kind is not Kind.VALUE:
        raise violation(f"{plan.name} is not written as a value")
    base: Any = plan.base
    if base is tuple:
        plain: Any = d.elements()
    else:
        d.enter()
        plain = d.value()
        d.leave()
        if type(plain) is not base:
            raise violation(f"{plan.name} from a {type(plain).__name__}")
    d.charge(wire.WEIGHT_OBJECT)
    value = base.__new__(plan.cls, plain.real, plain.imag) if base is complex else base.__new__(plan.cls, plain)
    number = d.remember(value)
    if plan.has_state:
        now = d.number()
        contents = contents_of(plan)
        if now:
            d.contents_now(number, contents, value)
        else:
            d.enqueue(number, contents, value)
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
            d.contents(first, thing)
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
    values = [d.value() for _ in names]
    d.fill(fill_attributes, thing, (names, values), same_attributes)


def fill_attributes(thing: Any, held: tuple[list[str], list[Any]]) -> None:
    state = instance_dict(thing)
    if state is thing:
        raise violation("attributes of an object that is its own attributes")
    if state:
        state.clear()
    state.update(zip(*held, strict=True))


def same_attributes(thing: Any, held: tuple[list[str], list[Any]]) -> bool:
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
        if d.peek() == Tag.UNSET:
            d.skip()
            values.append(UNSET)
        else:
            values.append(d.value())
    d.fill(fill_slots, thing, (slots, values), same_slots)


def fill_slots(thing: Any, held: tuple[tuple[tuple[str, Any], ...], list[Any]]) -> None:
    for (_, descriptor), value in zip(*held, strict=True):
        if value is not UNSET:
            descriptor.__set__(thing, value)
        elif _slot(descriptor, thing) is not UNSET:
            descriptor.__delete__(thing)


def same_slots(thing: Any, held: tuple[tuple[tuple[str, Any], ...], list[Any]]) -> bool:
    slots, values = held
    return all(_slot(descriptor, thing) is value for (_, descriptor), value in zip(slots, values, strict=True))


def _slot(descriptor: Any, thing: Any) -> Any:
    try:
        return descriptor.__get__(thing)
    except AttributeError:
        return UNSET


def _handle(d: Decoder) -> Any:
    d.skip()
    shard = d.text()
    object_id = int.from_bytes(d.take(8), "little")
    class_name = d.text()
    thing = d.codec._resolve_handle(shard, object_id, class_name)
    d.charge(wire.WEIGHT_OBJECT)
    d.remember(thing)
    return thing


READERS: dict[Tag, Callable[[Decoder], Any]] = {
    Tag.OBJECT: _object,
    Tag.VALUE_OBJECT: _value_object,
    Tag.ENUM: _enum,
    Tag.FLAG: _flag,
    Tag.NAMED: _named,
    Tag.HANDLE: _handle,
}
