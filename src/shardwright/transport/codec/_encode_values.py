"""Writing values in place: scalars, immutable containers, what is known by name, and refusals."""

from __future__ import annotations

import re
import struct
import types
from typing import Any

from shardwright.transport.codec import _wire as wire
from shardwright.transport.codec._encoder import Encode, Encoder
from shardwright.transport.codec._wire import LARGE_BYTES, SHARED_BYTES, Refusal, Tag

_INT_4 = struct.Struct("<Bi")
_INT_8 = struct.Struct("<Bq")
_FLOAT = struct.Struct("<Bd")
_COMPLEX = struct.Struct("<Bdd")


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
    if s.known(value) or (s.now and s.prepared(value)):
        return
    s.out.append(17)
    s.elements(value, value)
    s.remember(value)


def _frozenset(s: Encoder, value: frozenset[Any]) -> None:
    if s.known(value):
        return
    s.byte(Tag.FROZENSET)
    s.number(len(value))
    s.items += len(value) + wire.WEIGHT_SET
    s.enter(value)
    before, s.now = s.now, True  # unlike a set it cannot be made first and filled later
    try:
        for element in value:
            if _leads_to_open(s, element):
                raise Refusal(
                    value,
                    "a frozenset that an element of its own leads to",
                    "use a set, or break the cycle",
                )
            s.value(element)
    finally:
        s.now = before
    s.leave()
    s.remember(value)


def _leads_to_open(s: Encoder, element: Any) -> bool:
    if s.is_open(element):
        own: Any = type(element)
        return own.__hash__ is not object.__hash__
    return isinstance(element, tuple | frozenset) and any(_leads_to_open(s, inner) for inner in element)


def _slice(s: Encoder, value: slice) -> None:
    if s.known(value):
        return
    s.byte(Tag.SLICE)
    s.enter(value)
    s.value(value.start)
    s.value(value.stop)
    s.value(value.step)
    s.leave()
    s.remember(value)


def _range(s: Encoder, value: range) -> None:
    if s.known(value):
        return
    s.byte(Tag.RANGE)
    s.value(int(value.start))
    s.value(int(value.stop))
    s.value(int(value.step))
    s.remember(value)


# -- by name ---------------------------------------------------------------------------------------------------


def encode_named(s: Encoder, value: Any) -> bool:
    """A class or function of the fixed list or of the edge's table; False when it is neither."""
    name = s.codec.name_of(value)
    if name is None:
        return False
    s.byte(Tag.NAMED)
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


def refused(what: str, remedy: str) -> Encode:
    def encode(s: Encoder, value: Any) -> None:
        if not s.codec._handle(s, value):
            raise Refusal(value, what, remedy)

    return encode


WRITERS: dict[type, Encode] = {
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
    type: _type,
    types.FunctionType: encode_function,
    types.BuiltinFunctionType: encode_function,
    types.MethodType: refused("a bound method", "pass the object and call its method there, or pass data"),
    memoryview: refused("a memoryview", "pass bytes(view), or the object that it looks into"),
    types.GeneratorType: refused("a generator", "pass a list of its elements"),
    types.CoroutineType: refused("a coroutine", "await it, and pass the result"),
    types.ModuleType: refused("a module", "import it on the other side"),
    re.Match: refused("a match object", "pass match.groups() or match.groupdict()"),
}
