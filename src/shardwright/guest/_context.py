"""What a running call knows of itself: its session, its causal chain, its deadline, its trace."""

from __future__ import annotations

import os
import struct
import time
from collections import deque
from contextvars import ContextVar

import msgspec
from msgspec.structs import replace

from shardwright.model.ids import NO_SESSION, SessionNumber


class Life(msgspec.Struct, eq=False, gc=False):
    """Whether a call still runs: tasks and threads that it began may outlive it, and have copies of its context.

    A struct of msgspec, for each call has one.
    """

    over: bool = False
    cancelled: bool = False  # its caller no longer waits
    orphaned: bool = False  # its session has ended


class CallContext(msgspec.Struct, frozen=True):
    """The context of one call. ``chain`` is 0 outside any call: the next call begins a chain of its own.

    ``deadline_ns`` is absolute CLOCK_MONOTONIC nanoseconds, 0 for none. ``session_name`` is for people. ``life`` is the
    call's own; None for a context that is no call's. ``blocked``: as in Envelope, the loops of its callers.
    """

    session: SessionNumber = NO_SESSION
    session_name: str = ""
    chain: int = 0
    deadline_ns: int = 0
    trace_id: bytes = b"\0" * 16
    blocked: int = 0
    life: Life | None = None

    @property
    def over(self) -> bool:
        """Whether the call has been answered: its deadline and its chain are no longer anybody's."""
        return self.life is not None and self.life.over

    def remaining_s(self) -> float | None:
        """Seconds left until the deadline (never below 0), or None without one."""
        if not self.deadline_ns:
            return None
        return max(0.0, (self.deadline_ns - time.monotonic_ns()) / 1e9)

    def within(self, timeout_s: float | None) -> CallContext:
        """The same context with a deadline at most ``timeout_s`` from now."""
        if timeout_s is None:
            return self
        deadline_ns = time.monotonic_ns() + int(timeout_s * 1e9)
        if self.deadline_ns:
            deadline_ns = min(deadline_ns, self.deadline_ns)
        return replace(self, deadline_ns=deadline_ns)

    @classmethod
    def of_session(cls, session: SessionNumber, name: str) -> CallContext:
        """The context in which somebody outside of shards calls, once: of a chain, and a trace, of its own."""
        return cls(session, name, new_identifier(), trace_id=os.urandom(16), life=Life())


NOWHERE = CallContext()
current_call: ContextVar[CallContext] = ContextVar("shardwright_call", default=NOWHERE)


def time_left() -> float | None:
    """Seconds that the call has left in which this code runs, 0.0 when they are over; None where it has no deadline.

    A deadline is that of the first call of a chain: it goes along through all shards. None outside of shards.
    """
    context = current_call.get()
    return None if context.over else context.remaining_s()


def cancelled() -> bool:
    """Whether the caller of the call in which this code runs has gone, or given up: nobody will see its result.

    Coroutines are cancelled then. Other code runs on, and may ask; so may threads that it began. False outside of shards.
    """
    life = current_call.get().life
    return life is not None and life.cancelled


_drawn: deque[int] = deque()  # identifiers that the kernel gave, and nobody has used yet
_DRAW = struct.Struct("<128Q")


def new_identifier() -> int:
    """A non-zero random u64; from the kernel, so that forks of one template never agree."""
    while True:
        try:
            return _drawn.pop() | 1
        except IndexError:
            _drawn.extend(_DRAW.unpack(os.urandom(_DRAW.size)))


os.register_at_fork(after_in_child=_drawn.clear)
