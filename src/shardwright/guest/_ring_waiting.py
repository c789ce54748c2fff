"""A thread that waits for a reply where rings are read: at one place for the reply, the baton, and the role of reading.

As ``_chains.Waiting``, which waits by a bell; but the baton goes from thread to thread in another way. Whoever puts it down
is about to sleep; a thread that is woken before that finds the interpreter taken, and must be woken a second time. So the
one that gets the baton is only told so (``owe``), and roused by the very call in which the other goes to sleep. ``owed`` is
whom this thread has to rouse: by ``RingHub.wait``, at the latest by ``end``. If an exception from outside came between, the
doorbell's watcher would do it within 50 ms.
"""

from __future__ import annotations

import threading
from collections import deque
from queue import Empty
from typing import TYPE_CHECKING, Any

from shardwright.guest._bell import Bell
from shardwright.guest._chains import KEEP_S, Patience
from shardwright.guest._mailbox import Mailbox
from shardwright.model.ids import SessionNumber

if TYPE_CHECKING:
    from shardwright.guest._link import Link
    from shardwright.guest._ring_hub import RingHub


class RingWaiting:
    """A blocked thread's ticket: outcomes and calls to run arrive in ``inbox``.

    ``mailbox``: where the thread puts its baton down meanwhile; then it goes on when something is there *and* the baton is its
    own again. It is what the mailbox knows as its ``Waiter``.
    """

    __slots__ = (
        "_hub",
        "_patience",
        "asked",
        "asks",
        "at_once",
        "baton",
        "bell",
        "chain",
        "ear",
        "given",
        "inbox",
        "owed",
        "owed_at",
        "session",
        "thread",
    )

    def __init__(
        self, chain: int, session: SessionNumber, mailbox: Mailbox | None, hub: RingHub, patience: Patience, ear: Any
    ) -> None:
        self.chain = chain
        self.session = session
        self.thread = threading.get_ident()
        self.inbox: deque[Any] = deque()
        self.asks: Link | None = None  # whom it waits for
        self.baton = mailbox
        self.at_once = mailbox if mailbox is not None and mailbox.resumes else None
        self.ear = ear
        self.owed_at: Any = ear
        self.owed: Any = None
        self.bell: Bell | None = None
        if self.thread == hub.main:  # it waits there while others are to read, and so is not to be owed anything
            self.bell, self.owed_at = Bell(), None
        # as if it had the baton, which until it is put down here is not to come by this way: see ``_chains.Waiting``
        self.asked = self.given = True
        self._hub = hub
        self._patience = patience

    def deliver(self, item: Any) -> None:
        """Any thread."""
        self.inbox.append(item)
        if self.thread == threading.get_ident():
            return  # it reads, and looks at its inbox when it is done
        if self.at_once is None or self.given:
            self.ring()  # a thread that puts its baton down looks at its inbox after that
        else:
            self.at_once.resume(self)

    # -- as a waiter of the mailbox ----------------------------------------------------------------------------

    def wake(self) -> None:
        """It has the baton."""
        self.given = True
        self.ring()

    def ring(self) -> None:
        """Any thread: it is to look."""
        self.ear.wake()
        if self.bell is not None:
            self.bell.ring()

    # -- the thread that waits ---------------------------------------------------------------------------------

    def step_up(self) -> None:
        """A message is about to be sent whose reply this thread will wait for: have back the role that it lent.

        A reply that comes before the wait then wakes nobody. Followed by ``take``, or ``step_back``.
        """
        if self.bell is None:
            self._hub.step_up(self.ear)

    def step_back(self) -> None:
        """It does not come to that, or not yet. Any number of times; nothing happens when there is nothing to give back."""
        self._hub.step_back(self.ear)

    def begin(self, timeout_s: float | None = None) -> None:
        """Put the baton down, if nothing comes soon."""
        baton = self.at_once
        if baton is None:
            if self.baton is not None:
                self.baton.release()
            return
        if not baton.contended and self._patience.has():
            self._hub.wait(self, KEEP_S if timeout_s is None or timeout_s > KEEP_S else timeout_s)
            if self.inbox:
                self._patience.rewarded()
                return
            self._patience.lost()
        if self.bell is not None:  # an interrupt could keep us from rousing whoever gets it
            baton.park(self)
        else:
            self.owed = baton.put_down(self)

    def take(self, timeout_s: float | None) -> Any:
        """The next item, and with it the baton if it was put down. Raises Empty when the time is over: then without it."""
        if not self._hub.wait(self, timeout_s):
            raise Empty
        if self.at_once is not None:
            self.at_once.taken(self.thread)
        elif self.baton is not None:
            self.baton.acquire()
        return self.inbox.popleft()

    def end(self) -> None:
        """Have the baton again if it was put down, whatever happened."""
        if self.owed is not None:
            self.owed.pay()
        if self.baton is None or self.baton.holds():
            return
        if self.at_once is not None:
            self.at_once.reclaim(self)
        else:
            self.baton.acquire()
