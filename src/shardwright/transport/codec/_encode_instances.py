"""Writing instances of listed classes, and members of enums."""

from __future__ import annotations

from enum import Enum, Flag
from typing import Any

from shardwright.transport.codec import _wire as wire
from shardwright.transport.codec._classes import ClassPlan, instance_dict
from shardwright.transport.codec._encode_containers import (
    bytearray_contents,
    default_dict_contents,
    deque_contents,
    dict_contents,
    list_contents,
    maxlen,
    ordered_dict_contents,
    set_contents,
)
from shardwright.transport.codec._encoder import Encode, Encoder
from shardwright.transport.codec._wire import Kind, Refusal, Tag


def instance_encoder(plan: ClassPlan) -> Encode:
    """The encoder of a listed class's instances."""
    if plan.kind is Kind.ENUM:
        return _member(plan)
    contents = contents_of(plan)
    name = plan.name
    if plan.kind is Kind.VALUE:
        base = plan.base

        def encode_value(s: Encoder, value: Any) -> None:
            if s.codec._handle(s, value) or s.known(value) or (s.now and base is tuple and s.prepared(value)):
                return
            s.byte(Tag.VALUE_OBJECT)
            s.class_name(name)
            if base is tuple:
                s.elements(value, tuple(tuple.__iter__(value)))
            else:
                s.value(_plain_value(base, value))
            s.items += wire.WEIGHT_OBJECT
            number = s.remember(value)
            if not plan.has_state:
                return
            s.byte(1 if s.now else 0)
            if s.now:
                s.at_once(value, number, contents)
            else:
                s.enqueue(number, contents, value)

        return encode_value

    def encode(s: Encoder, value: Any) -> None:
        if s.codec._handle(s, value) or s.known(value):
            return
        s.begin(Tag.OBJECT)
        s.class_name(name)
        if plan.kind is Kind.DEQUE:
            s.write(maxlen(value))
        s.shell(value, contents, wire.WEIGHT_DEQUE if plan.kind is Kind.DEQUE else wire.WEIGHT_OBJECT)

    if plan.kind is Kind.OBJECT:
        # what the extension needs to know, to do this itself
        encode.plain = (name, plan.has_dict, plan.slots)  # type: ignore[attr-defined]
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
            s.byte(Tag.ENUM)
            s.class_name(name)
            s.text(member)
        elif isinstance(value, Flag):
            s.byte(Tag.FLAG)
            s.class_name(name)
            s.value(int(value._value_))
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
            s.contents(first, value)
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
    for value in state.values():
        s.value(value)


def write_slots(s: Encoder, slots: tuple[tuple[str, Any], ...], owner: object) -> None:
    s.number(len(slots))
    s.items += len(slots)
    for _, descriptor in slots:
        try:
            value = descriptor.__get__(owner)
        except AttributeError:
            s.byte(Tag.UNSET)
        else:
            s.value(value)
