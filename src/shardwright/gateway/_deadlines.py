"""Calls that end at a time: one timer for all that end at about the same one. One for each costs more than its message."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

__all__ = ["Deadlines", "Late"]

SLOT_NS = 100_000_000
EXACT_BELOW_NS = 2_000_000_000
"""Whoever has less time than this hears of its end at once, all others up to ``SLOT_NS`` late: five in a hundred."""


class Late(Protocol):
    """What waits no longer than it may."""

    def late(self) -> None:
        """Its time is over. Must not raise."""


class Deadlines:
    """Tells each of what was added that its time is over, unless it was dropped before. Use from its loop alone."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, set[Late]] = {}  # by their end, in slots since the clock began
        self._exact: dict[Late, asyncio.TimerHandle] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_slot = 0

    def __repr__(self) -> str:
        return f"<Deadlines of {len(self)}>"

    def __len__(self) -> int:
        return len(self._exact) + sum(map(len, self._slots.values()))

    def close(self) -> None:
        """Tell nobody any more."""
        for timer in (*self._exact.values(), *((self._timer,) if self._timer is not None else ())):
            timer.cancel()
        self._exact.clear()
        self._slots.clear()
        self._timer = None

    def add(self, deadline_ns: int, waiting: Late) -> int:
        """``late`` will be called at ``deadline_ns`` of CLOCK_MONOTONIC. ``drop`` wants what this returns."""
        if deadline_ns - time.monotonic_ns() < EXACT_BELOW_NS:
            self._exact[waiting] = self._loop.call_at(deadline_ns / 1e9, self._over, waiting)
            return 0
        slot = deadline_ns // SLOT_NS + 1
        there = self._slots.get(slot)
        if there is None:
            there = self._slots[slot] = set()
            if self._timer is None or slot < self._timer_slot:
                self._set_timer(slot)
        there.add(waiting)
        return slot

    def drop(self, waiting: Late, slot: int) -> None:
        """It waits no more. Nothing happens when it was told, or dropped, before."""
        if slot:
            there = self._slots.get(slot)
            if there is not None:
                there.discard(waiting)
        else:
            timer = self._exact.pop(waiting, None)
            if timer is not None:
                timer.cancel()

    def _over(self, waiting: Late) -> None:
        if self._exact.pop(waiting, None) is not None:
            waiting.late()

    def _set_timer(self, slot: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_slot = slot
        self._timer = self._loop.call_at(slot * SLOT_NS / 1e9, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = (time.monotonic_ns() + SLOT_NS // 10) // SLOT_NS  # a loop's timers may be a little early
        over = [slot for slot, waiting in self._slots.items() if slot <= now or not waiting]
        late = [waiting for slot in over for waiting in self._slots.pop(slot)]
        if self._slots:
            self._set_timer(min(self._slots))
        for waiting in late:
            waiting.late()
