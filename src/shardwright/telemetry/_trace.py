"""TraceContext: which story a call belongs to, carried along with it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from msgspec import Struct

# Asks the kernel each time, so that processes forked from one template do not draw the same numbers.
_KERNEL = random.SystemRandom()


class TraceContext(Struct, frozen=True):
    """The trace (16 bytes) and the span (u64, never 0) that work belongs to; a first span's parent is 0."""

    trace_id: bytes
    span_id: int
    parent_span_id: int = 0

    def __post_init__(self) -> None:
        if len(self.trace_id) != 16:
            raise ValueError(f"a trace id has 16 bytes, got {len(self.trace_id)}")
        if not (0 < self.span_id < 2**64 and 0 <= self.parent_span_id < 2**64):
            raise ValueError(f"span ids are unsigned 64-bit numbers, got {self.span_id}, {self.parent_span_id}")

    def __str__(self) -> str:
        return f"{self.trace_id.hex()}-{self.span_id:016x}"

    @classmethod
    def new_trace(cls, random_source: random.Random = _KERNEL) -> TraceContext:
        """The first span of a new trace."""
        return cls(random_source.randbytes(16), random_source.randrange(1, 2**64))

    def child(self, random_source: random.Random = _KERNEL) -> TraceContext:
        """A new span of the same trace, beneath this one."""
        return TraceContext(self.trace_id, random_source.randrange(1, 2**64), self.span_id)


_current: ContextVar[TraceContext | None] = ContextVar("shardwright_trace", default=None)


def current_trace() -> TraceContext | None:
    """The trace context of this thread or task; None outside any trace."""
    return _current.get()


@contextmanager
def use_trace(context: TraceContext | None) -> Iterator[None]:
    """Work in the block, and tasks started in it, belong to ``context``."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)
