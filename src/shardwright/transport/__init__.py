"""How messages look (envelope, codecs) and how they travel (socket, inproc)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from shardwright.transport._envelope import pack, unpack
from shardwright.transport.codec import (
    ClassTable,
    CodecLimits,
    Describe,
    HandleHook,
    Memo,
    PickleCodec,
    TaggedCodec,
    describe_call,
    text_that_came,
)

__all__ = [
    "CallCodec",
    "ClassTable",
    "CodecLimits",
    "Describe",
    "HandleHook",
    "Memo",
    "PickleCodec",
    "TaggedCodec",
    "describe_call",
    "pack",
    "text_that_came",
    "unpack",
]

Part = bytes | memoryview


class CallCodec(Protocol):
    """What a conversation needs of a codec; ``codec.TaggedCodec`` says what each method promises."""

    def encode_request(self, value: object, *, describe: Describe = ...) -> tuple[bytes, tuple[Part, ...], Memo]: ...

    def decode_request(self, payload: Part, buffers: Sequence[Part] = ...) -> tuple[Any, Memo]: ...

    def encode_reply(self, value: object, memo: Memo) -> tuple[bytes, tuple[Part, ...]]: ...

    def decode_reply(self, payload: Part, buffers: Sequence[Part], memo: Memo) -> Any: ...

    def encode_error(self, exception: BaseException, memo: Memo | None = ...) -> tuple[bytes, tuple[Part, ...]]: ...

    def decode_error(self, payload: Part, buffers: Sequence[Part] = ..., memo: Memo | None = ...) -> BaseException: ...
