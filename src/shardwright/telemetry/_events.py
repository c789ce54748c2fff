"""EventLog: what happened, in order, for whoever asks or listens."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple, TypeAlias

from msgspec import Struct

from shardwright.contracts.clock import Clock, SystemClock
from shardwright.model.ids import ComponentName, SessionId, ShardId

AttributeValue: TypeAlias = str | int | float | bool | None
DEFAULT_CAPACITY = 4096
_SUBSCRIBER_FAILED = "telemetry.subscriber_failed"


class Event(Struct, frozen=True):
    """One step that was taken. ``kind`` is dotted, from the general to the special: ``shard.started``."""

    wall_s: float
    kind: str
    message: str = ""
    shard: ShardId | None = None
    session: SessionId | None = None
    component: ComponentName | None = None
    attributes: tuple[tuple[str, AttributeValue], ...] = ()


class RecordedEvent(NamedTuple):
    """An event and its place in the log: sequence numbers start at 1, and a gap in them is events dropped."""

    sequence: int
    event: Event


Subscriber: TypeAlias = Callable[[RecordedEvent], None]


class EventLog:
    """A ring of the last ``capacity`` events, and a list of subscribers. Safe to use from any thread.

    With ``capacity=0`` and no subscriber, ``emit`` does nothing. Make a new one after a fork.
    """

    def __init__(self, capacity: int = DEFAULT_CAPACITY, *, clock: Clock | None = None) -> None:
        if capacity < 0:
            raise ValueError(f"capacity must not be negative, got {capacity}")
        self._clock = clock if clock is not None else SystemClock()
        self._ring: deque[RecordedEvent] = deque(maxlen=capacity)
        self._keeps = capacity > 0
        self._last = 0
        self._subscribers: tuple[tuple[object, Subscriber], ...] = ()
        self._lock = threading.RLock()  # a subscriber may emit

    def __repr__(self) -> str:
        return f"EventLog(last_sequence={self._last}, kept={len(self._ring)}, subscribers={len(self._subscribers)})"

    @property
    def enabled(self) -> bool:
        """Whether anybody could see an event: ask before computing an expensive attribute."""
        return self._keeps or bool(self._subscribers)

    @property
    def last_sequence(self) -> int:
        """The sequence number of the newest event; 0 before the first."""
        return self._last

    def emit(
        self,
        kind: str,
        message: str = "",
        *,
        shard: ShardId | None = None,
        session: SessionId | None = None,
        component: ComponentName | None = None,
        **attributes: AttributeValue,
    ) -> None:
        """Record an event that happens now, and tell the subscribers before returning. Never raises."""
        if self._keeps or self._subscribers:
            wall_s = self._clock.wall_s()
            self.record(Event(wall_s, kind, message, shard, session, component, tuple(attributes.items())))

    def record(self, event: Event) -> None:
        """The same for an event that was made elsewhere, for instance in a shard."""
        with self._lock:
            self._last += 1
            recorded = RecordedEvent(self._last, event)
            self._ring.append(recorded)
            failed: list[tuple[object, Subscriber, Exception]] = []
            for token, subscriber in self._subscribers:
                try:
                    subscriber(recorded)
                except Exception as error:
                    failed.append((token, subscriber, error))
            for token, _, _ in failed:
                self._drop(token)
            for _, subscriber, reason in failed:
                self.emit(_SUBSCRIBER_FAILED, f"{subscriber!r} raised {reason!r} and was dropped")

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call ``subscriber`` with every event from now on, in order; returns what ends that.

        It is called by the emitting thread with the log locked, so it must be quick: hand over, do not work. One that
        raises is dropped, and an event says so.
        """
        token = object()
        with self._lock:
            self._subscribers = (*self._subscribers, (token, subscriber))
        return lambda: self._drop(token)

    def _drop(self, token: object) -> None:
        with self._lock:
            self._subscribers = tuple(entry for entry in self._subscribers if entry[0] is not token)

    def since(self, sequence: int = 0) -> tuple[RecordedEvent, ...]:
        """The kept events that came after that number, oldest first."""
        with self._lock:
            if not self._ring or sequence >= self._last:
                return ()
            skip = max(0, sequence - self._ring[0].sequence + 1)
            return tuple(islice(self._ring, skip, None))
