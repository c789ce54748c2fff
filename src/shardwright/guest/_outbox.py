"""Answers that may wait for a moment, so that several go out in one piece.

A message costs its sender a system call, and its receiver a wake-up: more than a small function costs to run. While further
calls wait in the mailbox, the answers of those that were run are therefore kept, and sent together.

None waits long, whatever user code does meanwhile. Answers are kept just while the hub's thread is *armed*: it sleeps for at
most ``TICK_S``, and sends what it finds to be older than that. Being armed, keeping and sending exclude each other by
``_mutex``; so whatever was kept is seen by a tick that comes after it. Whoever frees the baton, because nothing is left to
run, sends all of it at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Protocol

from shardwright.contracts.transport import Channel, Part
from shardwright.guest._mailbox import Mailbox

__all__ = ["TICK_S", "Outbox", "Sender"]

TICK_S = 0.001
_TICK_NS = int(TICK_S * 1e9)
_PATIENCE_NS = 5_000_000_000  # a caller that does not take its answers for so long is cut off


class Sender(Protocol):
    """Whose messages are kept: a link."""

    channel: Channel

    def not_taken(self) -> None:
        """The peer does not read."""


class Outbox:
    """What the thread with the baton has to say. One for all links of a shard."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._mutex = threading.Lock()
        self._armed = False
        self._kept: dict[Sender, int] = {}  # who has something, and since when
        self._turns = 0  # of the mailbox, when the hub last looked
        mailbox.freed = self.flush

    def __repr__(self) -> str:
        return f"<Outbox {'armed' if self._armed else 'not armed'}, {len(self._kept)} links>"

    def keep(self, sender: Sender, parts: Sequence[Part]) -> bool:
        """Take a message over, to be sent soon. False: it is to be sent now, and takes along what was kept."""
        hopeless = not self._armed or not self._mailbox.contended or not self._mailbox.holds()
        if hopeless:
            return False
        with self._mutex:
            if not self._armed or not sender.channel.defer(parts):
                return False
            if sender not in self._kept:
                self._kept[sender] = time.monotonic_ns()
            return True

    def flush(self) -> None:
        """Send all that was kept. Any thread; does not wait."""
        if not self._kept:
            return
        with self._mutex:
            self._kept = {sender: since for sender, since in self._kept.items() if not sender.channel.flush()}
            late = [s for s, since_ns in self._kept.items() if time.monotonic_ns() - since_ns > _PATIENCE_NS]
            for sender in late:
                del self._kept[sender]
        for sender in late:
            sender.not_taken()

    # -- the hub's thread --------------------------------------------------------------------------------------

    def arm(self, *, heard: bool) -> float | None:
        """Before the hub sleeps: for how long it may; None: until something comes. ``heard``: something came just now."""
        kept = self._kept
        if kept and time.monotonic_ns() - min(kept.values(), default=0) >= _TICK_NS:
            self.flush()
        before = self._turns
        self._turns = self._mailbox.turns
        with self._mutex:
            # while one long call runs, there is nothing to wake for
            worth = len(self._kept) > 0 or (self._mailbox.contended and (heard or self._turns != before))
            self._armed = worth
        return TICK_S if worth else None

    def disarm(self) -> None:
        """The hub ends: from now on everything is sent at once."""
        with self._mutex:
            self._armed = False
        self.flush()
