"""Which threads of this process wait for which causal chain.

A call that comes back into a shard (A to B to A) belongs to the chain that the shard waits on. It is given to the waiting
thread itself: recursion keeps its thread, thread-locals stay true, and no thread is spent on depth.

A waiting thread takes from its own queue either its outcome or a call to run. When it leaves, calls that were given to it
too late are returned to be run elsewhere; offering and leaving exclude each other by ``_mutex``, so no call is lost.
"""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue
from typing import Any

from shardwright.errors import ChannelClosed
from shardwright.guest._mailbox import Mailbox, Waiter
from shardwright.model.envelope import Envelope
from shardwright.model.ids import SessionNumber

MAX_OFFERED = 64  # calls that wait for one thread; a chain is one thread's doing, so honest peers need one or two


class Waiting:
    """A blocked thread's ticket: outcomes and calls to run arrive in ``inbox``.

    ``mailbox``: where the thread puts its baton down meanwhile. It is woken when something is there *and* the baton is its
    own again, if that mailbox can do both at once; else it takes the baton up after it was woken.
    """

    __slots__ = ("_at_once", "_mailbox", "_waiter", "chain", "inbox", "session", "thread")

    def __init__(self, chain: int, session: SessionNumber, mailbox: Mailbox | None = None) -> None:
        self.chain = chain
        self.session = session
        self.thread = threading.get_ident()
        self.inbox: SimpleQueue[Any] = SimpleQueue()
        self._mailbox = mailbox
        self._at_once = mailbox if mailbox is not None and mailbox.resumes else None
        # as if it had the baton, which until it is put down here is not to come by this way: a send that waits puts it down
        # and takes it up again by itself, and would wait for ever for a baton that was given to the waiter meanwhile
        self._waiter = Waiter(asked=True)

    def deliver(self, item: Any) -> None:
        """Any thread."""
        self.inbox.put(item)
        if self._at_once is not None:
            self._at_once.resume(self._waiter)

    # -- the thread that waits ---------------------------------------------------------------------------------

    def begin(self) -> None:
        """Put the baton down; what is there already is not forgotten."""
        if self._at_once is not None:
            self._at_once.park(self._waiter)
            if not self.inbox.empty():
                self._at_once.resume(self._waiter)
        elif self._mailbox is not None:
            self._mailbox.release()

    def take(self, timeout_s: float | None) -> Any:
        """The next item, and with it the baton if it was put down. Raises Empty when the time is over: then without it."""
        if self._at_once is not None:
            if not self._at_once.wait(self._waiter, timeout_s):
                raise Empty
            return self.inbox.get_nowait()
        item = self.inbox.get(timeout=timeout_s)
        if self._mailbox is not None:
            self._mailbox.acquire()
        return item

    def end(self) -> None:
        """Have the baton again if it was put down, whatever happened."""
        if self._mailbox is None or self._mailbox.holds():
            return
        if self._at_once is not None:
            self._at_once.reclaim(self._waiter)
        else:
            self._mailbox.acquire()


class Chains:
    """The waiting threads of one process, by chain."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: dict[int, list[Waiting]] = {}
        self._stuck: dict[int, int] = {}

    def enter(self, waiting: Waiting) -> None:
        with self._mutex:
            self._waiting.setdefault(waiting.chain, []).append(waiting)

    def leave(self, waiting: Waiting) -> list[Any]:
        """The thread no longer waits; returns calls that came too late for it."""
        with self._mutex:
            stack = self._waiting[waiting.chain]
            stack.remove(waiting)
            if not stack:
                del self._waiting[waiting.chain]
        late = []
        while not waiting.inbox.empty():
            item = waiting.inbox.get()
            if not isinstance(item, (Envelope, ChannelClosed)):
                late.append(item)
        return late

    def offer(self, chain: int, call: object) -> bool:
        """Give a call to the latest thread that waits on its chain; False when none does, or it has enough to do."""
        if not chain:
            return False
        with self._mutex:
            stack = self._waiting.get(chain)
            if not stack or stack[-1].inbox.qsize() >= MAX_OFFERED:
                return False
            stack[-1].deliver(call)
            return True

    def waits(self, chain: int, thread: int | None) -> bool:
        """Whether that thread waits on that chain."""
        with self._mutex:
            return any(waiting.thread == thread for waiting in self._waiting.get(chain, ()))

    def threads(self) -> set[int]:
        """The threads that wait for other shards."""
        with self._mutex:
            return {waiting.thread for stack in self._waiting.values() for waiting in stack}

    # -- loops that keep the baton while they sleep ------------------------------------------------------------

    def stick(self, chain: int) -> None:
        """An event loop that keeps the baton while it sleeps awaits a call of that chain: nothing of it can run here."""
        with self._mutex:
            self._stuck[chain] = self._stuck.get(chain, 0) + 1

    def unstick(self, chain: int) -> None:
        """The awaited call has its outcome."""
        with self._mutex:
            left = self._stuck[chain] - 1
            if left:
                self._stuck[chain] = left
            else:
                del self._stuck[chain]

    def stuck(self, chain: int) -> bool:
        return chain in self._stuck
