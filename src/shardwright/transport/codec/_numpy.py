"""numpy arrays and scalars. Who is sent the first one imports numpy by its name, which no message chooses."""

from __future__ import annotations

import importlib
import math
import re
import sys
from typing import Any

from shardwright.errors import CannotCross
from shardwright.transport._segments import Segment
from shardwright.transport.codec import _tagged_decode as decoding
from shardwright.transport.codec import _wire as wire
from shardwright.transport.codec._extension import native
from shardwright.transport.codec._tagged_decode import Contents, Decoder
from shardwright.transport.codec._tagged_encode import Encode, Encoder, raw_contents
from shardwright.transport.codec._wire import LARGE_BYTES, Refusal, Tag, violation

__all__ = ["contents_decoder", "contents_encoder", "encoder_for"]

_DTYPE = re.compile(r"[<>|][biufcSUVmM][0-9]{1,6}(\[[0-9]{0,4}[A-Za-z]{1,2}\])?")
_F_ORDER = 1
_READ_ONLY = 2
_HERE = 4  # its elements are the next buffer, and no contents follow


def _numpy(cls: type) -> Any:
    """numpy, if ``cls`` may be a class of its own and it is here; None for all other classes.

    Only then: another thread may be importing numpy this moment, and a module that is half there has no ``ndarray``.
    An import of what another thread imports waits for it.
    """
    if cls.__module__ != "numpy" or "numpy" not in sys.modules:
        return None
    return importlib.import_module("numpy")


def encoder_for(cls: type) -> Encode | None:
    numpy = _numpy(cls)
    if numpy is None:
        return None
    if cls is numpy.ndarray:
        return _array
    if issubclass(cls, numpy.generic):
        return _scalar
    return None


def contents_encoder(cls: type) -> Encode | None:
    numpy = _numpy(cls)
    return _array_contents if numpy is not None and cls is numpy.ndarray else None


def contents_decoder(cls: type) -> Contents | None:
    numpy = _numpy(cls)
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
    here = value.nbytes >= LARGE_BYTES
    s.begin(Tag.NUMPY_ARRAY)
    s.byte(flags | _HERE if here else flags)
    s.byte(value.ndim)
    for length in value.shape:
        s.number(length)
    s.text(text)
    if here:
        s.buffer(_flat(value))
    s.shell(value, _no_contents if here else _array_contents, wire.WEIGHT_OBJECT)


def _refuse_overlap(s: Encoder, value: Any) -> None:
    """Two arrays over the same memory would be two arrays over there."""
    numpy = _loaded()
    for other in s.objects:
        if type(other) is numpy.ndarray and numpy.may_share_memory(value, other) and numpy.shares_memory(value, other):
            raise Refusal(value, "a numpy array that shares memory with another one of the same call", "pass a copy")


def _no_contents(s: Encoder, value: Any) -> None:
    """They went with the shell."""


def _array_contents(s: Encoder, value: Any) -> None:
    if value.nbytes >= LARGE_BYTES:
        s.byte(0xFF)
        s.buffer(_flat(value))
    else:
        raw_contents(s, value.tobytes(_order(value)))


def _order(value: Any) -> str:
    return "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"


def _flat(value: Any) -> memoryview:
    """The bytes of an array, in its order; a view of them where they lie together."""
    numpy = _loaded()
    whole = numpy.asfortranarray(value) if _order(value) == "F" else numpy.ascontiguousarray(value)
    return memoryview(whole.reshape(-1, order="A").view("u1")).cast("B")


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
    """numpy whole, imported if need be. Raises CannotCross where it cannot be."""
    try:
        return importlib.import_module("numpy")
    except Exception as error:
        raise CannotCross(
            f"a numpy value came to where numpy cannot be imported: {error}",
            outcome="failed",
            remedy="install numpy there as well, or send plain values (.item(), .tolist())",
        ) from None


def _read_dtype(d: Decoder) -> Any:
    text = d.text()
    if not _DTYPE.fullmatch(text):
        raise violation(f"numpy dtype {text!r}")
    return _loaded().dtype(text)


def _read_array(d: Decoder) -> Any:
    numpy = _loaded()
    flags, ndim = d.take(3)[1:]
    if flags & ~(_F_ORDER | _READ_ONLY | _HERE) or ndim > 32:
        raise violation("numpy flags")
    shape = tuple([d.number() for _ in range(ndim)])
    dtype = _read_dtype(d)
    size = math.prod(shape) * dtype.itemsize
    left = d.left()
    if size > left or max(shape, default=0) > 1 << 48:
        raise violation(f"an array of {size} bytes, {left} bytes left")
    order = "F" if flags & _F_ORDER else "C"
    contents: Contents = _read_contents
    if flags & _HERE:
        raw = d.buffer()
        if len(raw) != size or not size:
            raise violation(f"an array of {size} bytes with {len(raw)}")
        array, held = _array_of(raw, shape, dtype, order, d.snapshots is None)
        contents = _Filled(held)
    else:
        array = numpy.zeros(shape, dtype, order=order)
    if flags & _READ_ONLY:
        array.flags.writeable = False
    return d.shell(array, contents, wire.WEIGHT_OBJECT + size // 64)


def _array_of(raw: Any, shape: tuple[int, ...], dtype: Any, order: str, alone: bool) -> tuple[Any, Any]:
    """The array, and what tells later whether it was changed.

    It lies where the buffer lies if that memory is ours to write, and nobody compares with it later.
    """
    numpy = _loaded()
    view = memoryview(raw)
    held: Any = raw
    if isinstance(view.obj, Segment):
        held, alone = view.obj.pristine, True
    if alone and not view.readonly:
        array = numpy.ndarray(shape, dtype, buffer=view, order=order)
        if array.flags.aligned:
            return array, held
    array = numpy.empty(shape, dtype, order=order)
    array[...] = numpy.frombuffer(view, dtype).reshape(shape, order=order)
    return array, held


class _Filled:
    """The contents of an array that has its elements already."""

    __slots__ = ("raw",)

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def __call__(self, d: Decoder, thing: Any) -> None:
        if d.snapshots is not None:
            d.snapshots.append((thing, (self.raw, thing.shape, thing.dtype), _same))


def _read_contents(d: Decoder, thing: Any) -> None:
    raw = d.own_raw()
    if len(raw) != thing.nbytes:
        raise violation(f"an array of {thing.nbytes} bytes with {len(raw)}")
    d.fill(_fill, thing, (raw, thing.shape, thing.dtype), _same)


def _fill(thing: Any, held: tuple[Any, Any, Any]) -> None:
    numpy = _loaded()
    raw = held[0]
    writeable = thing.flags.writeable
    order = _order(thing)
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
    flat, raw = _flat(thing), held[0]
    if native is not None:
        return bool(native.same_bytes(flat, raw))
    numpy = _loaded()
    return bool((numpy.frombuffer(flat, "u1") == numpy.frombuffer(raw, "u1")).all())


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
