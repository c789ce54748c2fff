"""numpy arrays and scalars. Who is sent the first one imports numpy by its name, which no message chooses."""

from __future__ import annotations

import importlib
import math
import re
import sys
from typing import Any

from shardwright.errors import CannotCross
from shardwright.transport.codec import _tagged_decode as decoding
from shardwright.transport.codec import _wire as wire
from shardwright.transport.codec._tagged_decode import Contents, Decoder
from shardwright.transport.codec._tagged_encode import Encode, Encoder, raw_contents
from shardwright.transport.codec._wire import LARGE_BYTES, Refusal, Tag, violation

__all__ = ["contents_decoder", "contents_encoder", "encoder_for"]

_DTYPE = re.compile(r"[<>|][biufcSUVmM][0-9]{1,6}(\[[0-9]{0,4}[A-Za-z]{1,2}\])?")
_F_ORDER = 1
_READ_ONLY = 2


def _numpy() -> Any:
    return sys.modules.get("numpy")


def encoder_for(cls: type) -> Encode | None:
    numpy = _numpy()
    if numpy is None:
        return None
    if cls is numpy.ndarray:
        return _array
    if issubclass(cls, numpy.generic) and cls.__module__ == "numpy":
        return _scalar
    return None


def contents_encoder(cls: type) -> Encode | None:
    numpy = _numpy()
    return _array_contents if numpy is not None and cls is numpy.ndarray else None


def contents_decoder(cls: type) -> Contents | None:
    numpy = _numpy()
    return _read_contents if numpy is not None and cls is numpy.ndarray else None


def _dtype_text(value: Any) -> str:
    dtype = value.dtype
    text: str = dtype.str
    if dtype.hasobject or dtype.names is not None or dtype.subdtype is not None or not _DTYPE.fullmatch(text):
        raise Refusal(value, f"a numpy {type(value).__name__} of dtype {dtype}", "use a plain numeric or text dtype")
    return text


def _array(s: Encoder, value: Any) -> None:
    if s.known(value):
        return
    text = _dtype_text(value)
    flags = _F_ORDER if value.flags.f_contiguous and not value.flags.c_contiguous else 0
    if not value.flags.writeable:
        flags |= _READ_ONLY
    _refuse_overlap(s, value)
    s.begin(Tag.NUMPY_ARRAY)
    s.byte(flags)
    s.byte(value.ndim)
    for length in value.shape:
        s.number(length)
    s.text(text)
    s.shell(value, _array_contents, wire.WEIGHT_OBJECT)


def _refuse_overlap(s: Encoder, value: Any) -> None:
    """Two arrays over the same memory would be two arrays over there."""
    numpy = _numpy()
    for other in s.objects:
        if type(other) is numpy.ndarray and numpy.may_share_memory(value, other) and numpy.shares_memory(value, other):
            raise Refusal(value, "a numpy array that shares memory with another one of the same call", "pass a copy")


def _array_contents(s: Encoder, value: Any) -> None:
    order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    if value.nbytes >= LARGE_BYTES:
        numpy = _numpy()
        flat = (numpy.asfortranarray(value) if order == "F" else numpy.ascontiguousarray(value)).reshape(-1, order="A")
        s.byte(0xFF)
        s.buffer(memoryview(flat.view("u1")).cast("B"))
    else:
        raw_contents(s, value.tobytes(order))


def _scalar(s: Encoder, value: Any) -> None:
    if s.known(value):
        return
    text = _dtype_text(value)
    s.byte(Tag.NUMPY_SCALAR)
    s.text(text)
    raw = value.tobytes()
    s.number(len(raw))
    s.write(raw)
    s.remember(value)


def _loaded() -> Any:
    numpy = _numpy()
    if numpy is None:
        try:
            numpy = importlib.import_module("numpy")
        except Exception as error:
            raise CannotCross(
                f"a numpy value came to where numpy cannot be imported: {error}",
                outcome="failed",
                remedy="install numpy there as well, or send plain values (.item(), .tolist())",
            ) from None
    return numpy


def _read_dtype(d: Decoder) -> Any:
    text = d.text()
    if not _DTYPE.fullmatch(text):
        raise violation(f"numpy dtype {text!r}")
    return _loaded().dtype(text)


def _read_array(d: Decoder) -> Any:
    numpy = _loaded()
    flags, ndim = d.take(3)[1:]
    if flags & ~(_F_ORDER | _READ_ONLY) or ndim > 32:
        raise violation("numpy flags")
    shape = tuple([d.number() for _ in range(ndim)])
    dtype = _read_dtype(d)
    size = math.prod(shape) * dtype.itemsize
    left = d.left()
    if size > left or max(shape, default=0) > 1 << 48:
        raise violation(f"an array of {size} bytes, {left} bytes left")
    array = numpy.zeros(shape, dtype, order="F" if flags & _F_ORDER else "C")
    if flags & _READ_ONLY:
        array.flags.writeable = False
    return d.shell(array, _read_contents, wire.WEIGHT_OBJECT + size // 64)


def _read_contents(d: Decoder, thing: Any) -> None:
    raw = d.own_raw()
    if len(raw) != thing.nbytes:
        raise violation(f"an array of {thing.nbytes} bytes with {len(raw)}")
    d.fill(_fill, thing, (raw, thing.shape, thing.dtype), _same)


def _fill(thing: Any, held: tuple[Any, Any, Any]) -> None:
    numpy = _numpy()
    raw = held[0]
    writeable = thing.flags.writeable
    order = "F" if thing.flags.f_contiguous and not thing.flags.c_contiguous else "C"
    fresh = numpy.frombuffer(raw, thing.dtype) if thing.dtype.itemsize else numpy.zeros(thing.size, thing.dtype)
    if not writeable:
        thing.flags.writeable = True
    thing[...] = fresh.reshape(thing.shape, order=order)
    thing.flags.writeable = writeable


def refuse_new_layout(thing: object, held: Any) -> None:
    """The caller's own array can take new elements, not another shape or dtype."""
    if contents_encoder(type(thing)) is not None and _layout(thing) != held[1:]:
        raise Refusal(thing, "a numpy array whose shape or dtype was changed in place", "return a new array instead")


def _layout(thing: Any) -> tuple[Any, Any]:
    return thing.shape, thing.dtype


def _same(thing: Any, held: tuple[Any, Any, Any]) -> bool:
    if _layout(thing) != held[1:]:
        return False
    raw = held[0]
    order = "F" if thing.flags.f_contiguous and not thing.flags.c_contiguous else "C"
    same: bool = thing.tobytes(order) == raw
    return same


def _read_scalar(d: Decoder) -> Any:
    d.skip()
    numpy = _loaded()
    dtype = _read_dtype(d)
    raw = d.take(d.number())
    if len(raw) != dtype.itemsize or not raw:
        if dtype.kind not in "SU" or raw:
            raise violation("a numpy scalar of another size")
        value = dtype.type()
    else:
        value = numpy.frombuffer(raw, dtype)[0]
    d.remember(value)
    return value


decoding.DISPATCH[Tag.NUMPY_ARRAY] = _read_array
decoding.DISPATCH[Tag.NUMPY_SCALAR] = _read_scalar
