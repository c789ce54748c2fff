"""Pickle, protocol 5, inside one trust domain only: unpickling runs what the peer says.

Arguments and results are copies; changes that a callee makes to its arguments are *not* carried back, and results do
not alias arguments. The node and the gateway never use this codec.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from shardwright.errors import CannotCross, Outcome, ProtocolViolation
from shardwright.transport.codec._classes import ClassTable
from shardwright.transport.codec._memo import Memo
from shardwright.transport.codec._paths import Describe, describe_value
from shardwright.transport.codec._tagged import TaggedCodec
from shardwright.transport.codec._wire import LARGE_BYTES

__all__ = ["PickleCodec"]

Part = bytes | memoryview


class PickleCodec:
    """The same methods as TaggedCodec, without its memo: ``restores_arguments`` is False."""

    restores_arguments = False

    def __init__(self, classes: ClassTable | None = None) -> None:
        self._errors = TaggedCodec(classes)

    @property
    def plain(self) -> TaggedCodec:
        """For values in which the two make no difference: that one is quicker where they are small."""
        return self._errors

    def encode_request(
        self, value: object, *, describe: Describe = describe_value
    ) -> tuple[bytes, tuple[Part, ...], Memo]:
        """Raises CannotCross when the value does not pickle."""
        payload, buffers = _dump(value, "not started")
        return payload, buffers, Memo(None, [], [])

    def decode_request(self, payload: Part, buffers: Sequence[Part] = ()) -> tuple[Any, Memo]:
        return _load(payload, buffers), Memo(None, [], [])

    def encode_reply(self, value: object, memo: Memo) -> tuple[bytes, tuple[Part, ...]]:
        return _dump(value, "failed")

    def decode_reply(self, payload: Part, buffers: Sequence[Part], memo: Memo) -> Any:
        return _load(payload, buffers)

    def encode_error(self, exception: BaseException, memo: Memo | None = None) -> tuple[bytes, tuple[Part, ...]]:
        """As the tagged codec writes it: pickling loses causes and tracebacks, and often fails."""
        return self._errors.encode_error(exception)

    def decode_error(self, payload: Part, buffers: Sequence[Part] = (), memo: Memo | None = None) -> BaseException:
        return self._errors.decode_error(payload, buffers)


def _dump(value: object, outcome: Outcome) -> tuple[bytes, tuple[Part, ...]]:
    buffers: list[pickle.PickleBuffer] = []
    try:
        payload = pickle.dumps(value, 5, buffer_callback=buffers.append)
        return payload, tuple([buffer.raw() for buffer in buffers]) if buffers else ()
    except Exception as error:
        raise CannotCross(
            f"the value does not pickle: {error}",
            outcome=outcome,
            remedy="pass plain data, or keep both together",
        ) from error


def _load(payload: Part, buffers: Sequence[Part]) -> Any:
    try:
        return pickle.loads(payload, buffers=[_writable(buffer) for buffer in buffers] if buffers else None)
    except Exception as error:
        raise ProtocolViolation(f"malformed pickle: {type(error).__name__}: {error}") from error


def _writable(buffer: Part) -> bytearray | memoryview:
    """Memory that is ours alone, and writable as the original was: the buffer itself, where it is that.

    What is small is copied, for it would keep the whole message in memory.
    """
    if len(buffer) >= LARGE_BYTES and isinstance(buffer, memoryview) and not buffer.readonly:
        return buffer
    return bytearray(buffer)
