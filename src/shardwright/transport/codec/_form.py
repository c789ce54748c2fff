"""The four operations of the tagged codec, in Python and, where the extension was built, in C.

Both write the same bytes and raise the same errors. What the extension does not do itself (exceptions, numpy, registered types
and more) are the functions of this room's other files: they know a message by its methods only, so that the messages of
either form serve.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from shardwright.transport.codec import _decode_containers as reading
from shardwright.transport.codec import _decode_instances as instances
from shardwright.transport.codec import _encode_containers as writing
from shardwright.transport.codec import _encoder
from shardwright.transport.codec._decoder import DISPATCH, Decoder, fill_hashed, settle
from shardwright.transport.codec._encode_instances import write_attributes
from shardwright.transport.codec._encoder import Encoder
from shardwright.transport.codec._extension import native
from shardwright.transport.codec._keys import KeyCost
from shardwright.transport.codec._memo import Memo
from shardwright.transport.codec._wire import violation

if TYPE_CHECKING:
    from shardwright.transport.codec._tagged import TaggedCodec

__all__ = ["Form", "PythonForm", "make_form"]

Part = bytes | memoryview


class Form(Protocol):
    """Reading and writing for one codec. Errors are raised as they come: the codec words them for its caller."""

    def write_request(self, value: object, /) -> tuple[bytes, tuple[Part, ...], Memo]: ...

    def read_request(self, payload: Part, buffers: Sequence[Part], /) -> tuple[Any, Memo]: ...

    def write_reply(self, value: object, memo: Memo, /) -> tuple[bytes, tuple[Part, ...]]: ...

    def read_reply(self, payload: Part, buffers: Sequence[Part], memo: Memo | None, error: bool, /) -> Any: ...


class PythonForm:
    """The reference: it serves where nothing was compiled."""

    __slots__ = ("codec",)

    def __init__(self, codec: TaggedCodec) -> None:
        self.codec = codec

    def write_request(self, value: object, /) -> tuple[bytes, tuple[Part, ...], Memo]:
        s = Encoder(self.codec, [])
        s.value(value)
        s.drain()
        return bytes(s.out), tuple(s.buffers), Memo(value, s.objects, [])

    def read_request(self, payload: Part, buffers: Sequence[Part], /) -> tuple[Any, Memo]:
        snapshots: list[Any] = []
        d = Decoder(self.codec, payload, buffers, [], snapshots)
        value = d.value()
        d.drain()
        settle(d)
        return value, Memo(value, d.objects, snapshots)

    def write_reply(self, value: object, memo: Memo, /) -> tuple[bytes, tuple[Part, ...]]:
        s = Encoder(self.codec, memo.objects)
        differing = memo.changed()
        if differing:
            self.codec.write_changes(s, memo, differing)
        else:
            s.number(0)
        s.value(value)
        s.drain()
        return bytes(s.out), tuple(s.buffers)

    def read_reply(self, payload: Part, buffers: Sequence[Part], memo: Memo | None, error: bool, /) -> Any:
        d = Decoder(self.codec, payload, buffers, memo.objects if memo is not None else [], None)
        changes = d.count()
        if changes:
            self.codec.read_changes(d, changes)
        value = d.value()
        if error and not issubclass(type(value), BaseException):
            raise violation("an error that is no exception")
        d.drain()
        settle(d)
        return value


def _big_int_bytes(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)


def _big_int(raw: bytes) -> int:
    return int.from_bytes(raw, "little", signed=True)


if native is not None:
    native.configure(
        {
            "violation": violation,
            "too_large": _encoder.too_large,
            "too_deep": _encoder.too_deep,
            "leads_back": _encoder.leads_back,
            "complete": _encoder.complete,
            "big_int_bytes": _big_int_bytes,
            "big_int": _big_int,
            "set_update": set.update,
            "fill_hashed": fill_hashed,
            "settle": settle,
            "key_cost": KeyCost,
            "dispatch": DISPATCH,
            # known by identity, so that their work is done in C
            "write_list": writing.list_contents,
            "write_dict": writing.dict_contents,
            "write_set": writing.set_contents,
            "read_list": reading.list_contents,
            "read_dict": reading.dict_contents,
            "read_set": reading.set_contents,
            "fill_list": reading.fill_list,
            "fill_dict": reading.fill_dict,
            "fill_set": reading.fill_set,
            "same_list": reading.same_list,
            "same_dict": reading.same_dict,
            "same_set": reading.same_set,
            "fill_attributes": instances.fill_attributes,
            "same_attributes": instances.same_attributes,
            "plain_of": instances.plain_of,
            "object_of": instances.object_of,
            "read_attributes": instances.read_attributes,
            "read_slots": instances.read_slots,
            "write_attributes": write_attributes,
        }
    )


def make_form(codec: TaggedCodec) -> Form:
    """The quickest form there is here."""
    if native is None:
        return PythonForm(codec)
    form: Form = native.NativeForm(codec)
    return form
