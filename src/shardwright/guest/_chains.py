"""Which threads of this process wait for which causal chain.

A call that comes back into a shard (A to B to A) belongs to the chain that the shard waits on. It is given to the waiting
thread itself: recursion keeps its thread, thread-locals stay true, and no thread is spent on depth.

A waiting thread takes from its own queue either its outcome or a call to run. When it leaves, calls that were given to it
too late are returned to be run elsewhere; offering and leaving exclude each other by ``_mutex``, so no call is lost.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from queue import Empty
from typing import TYPE_CHECKING, Any, TypeAlias

from shardwright.errors import ChannelClosed
from shardwright.guest._bell import heeding_signals
from shardwright.guest._context import CallContext
from shardwright.guest._mailbox import Mailbox, Waiter
from shardwright.model.envelope import Envelope, Kind
from shardwright.model.ids import SessionNumber
from shardwright.transport import shm

if TYPE_CHECKING:
    from shardwright.guest._hub import Hub
    from shardwright.guest._link import Link
    from shardwright.guest._ring_waiting import RingWaiting

KEEP_S = 0.001  # so long a thread that reads for itself may keep the baton, where replies use to come sooner
MAX_PENALTY = 1024
MAX_OFFERED = 64  # calls that wait for one thread; a chain is one thread's doing, so honest peers need one or two


class PythonPatience:
    """Whether to keep the baton while waiting for a reply, for ``KEEP_S`` at most, where nobody else wants it.

    Putting it down costs two hand-overs between threads as soon as another call is there to take it up, which is more than
    most replies take to come. Where one takes longer, keeping it would hold up other calls for nothing: then it is put
    down at once for the next calls, one and then twice as many each time (as an exponential back-off).
    """

    __slots__ = ("_left", "_penalty")

    def __init__(self) -> None:
        self._left = 0
        self._penalty = 1

    def has(self) -> bool:
        if self._left:
            self._left -= 1
            return False
        return True

    def rewarded(self) -> None:
        if self._penalty > 1:
            self._penalty //= 2

    def lost(self) -> None:
        self._left = self._penalty
        self._penalty = min(2 * self._penalty, MAX_PENALTY)


if TYPE_CHECKING:
    Patience: TypeAlias = PythonPatience
else:
    Patience = shm.Patience if shm.available() else PythonPatience


class Waiting:
    """A blocked thread's ticket: outcomes and calls to run arrive in ``inbox``.

    ``mailbox``: where the thread puts its baton down meanwhile. It goes on when something is there *and* the baton is its
    own again: where that mailbox can give both at once, it is not woken before. ``hub``: what it reads while it waits, as
    long as no other thread does.
    """

    __slots__ = (
        "_at_once",
        "_hub",
        "_patience",
        "asks",
        "baton",
        "bell",
        "chain",
        "inbox",
        "leads",
        "session",
        "thread",
    )

    def __init__(
        self,
        chain: int,
        session: SessionNumber,
        mailbox: Mailbox | None = None,
        hub: Hub | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.chain = chain
        self.session = session
        self.thread = threading.get_ident()
        self.inbox: deque[Any] = deque()
        self.leads = False
        self.asks: Link | None = None  # whom it waits for
        self.baton = mailbox
        self._hub = hub
        self._patience = patience
        self._at_once = mailbox if mailbox is not None and mailbox.resumes else None
        # as if it had the baton, which until it is put down here is not to come by this way: a send that waits puts it down
        # and takes it up again by itself, and would wait for ever for a baton that was given to the waiter meanwhile
        self.bell = Waiter(asked=True)

    def deliver(self, item: Any) -> None:
        """Any thread."""
        self.inbox.append(item)
        hub = self._hub
        if hub is not None and hub.delivered(self):
            return
        if self._at_once is not None:
            self._at_once.resume(self.bell)
        else:
            self.bell.ring()

    def ring(self) -> None:
        """Any thread: it is to look whether it must read."""
        self.bell.ring()

    # -- the thread that waits ---------------------------------------------------------------------------------

    def step_up(self) -> None:
        """A message is about to be sent whose reply this thread will wait for."""

    def step_back(self) -> None:
        """It does not come to that, or not yet."""

    def begin(self, timeout_s: float | None = None) -> None:
        """Put the baton down, if nothing comes soon."""
        if self._at_once is not None:
            patience = self._patience
            if patience is not None and patience.has():
                hub = self._hub
                assert hub is not None
                if hub.read_for(self, KEEP_S if timeout_s is None or timeout_s > KEEP_S else timeout_s):
                    if self.inbox:
                        patience.rewarded()
                        return
                    patience.lost()
            self._at_once.park(self.bell)
        elif self.baton is not None:
            self.baton.release()

    def take(self, timeout_s: float | None) -> Any:
        """The next item, and with it the baton if it was put down. Raises Empty when the time is over: then without it."""
        if not self.inbox:
            self._sleep(timeout_s)
        if self._at_once is not None:
            if not self.bell.given or not self._at_once.holds():
                self._at_once.claim(self.bell)
        elif self.baton is not None:
            self.baton.acquire()
        return self.inbox.popleft()

    def _sleep(self, timeout_s: float | None) -> None:
        """Until something is there. Raises Empty."""
        inbox, hub = self.inbox, self._hub
        end_s = 0.0 if timeout_s is None else time.monotonic() + timeout_s
        while not inbox:
            if hub is None:
                self.bell.wait(heeding_signals(self.thread, timeout_s))
            else:
                hub.wait(self, timeout_s)
            if timeout_s is not None and not inbox and (timeout_s := end_s - time.monotonic()) <= 0:
                raise Empty

    def end(self) -> None:
        """Have the baton again if it was put down, whatever happened."""
        if self.baton is None or self.baton.holds():
            return
        if self._at_once is not None:
            self._at_once.reclaim(self.bell)
        else:
            self.baton.acquire()


_MARK_BITS = 8


def new_mark() -> int:
    """8 of 64 bits. That the marks of two other loops together contain one's own happens once in 60,000 such pairs."""
    mark = 0
    while mark.bit_count() < _MARK_BITS:
        mark |= 1 << os.urandom(1)[0] % 64
    return mark


AnyWaiting: TypeAlias = "Waiting | RingWaiting"
Depth: TypeAlias = tuple[int, int]
"""How many threads wait: the slow way, and the quick one."""


class Chains:
    """The waiting threads of one process, by chain."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: dict[int, list[AnyWaiting]] = {}
        self._stuck: dict[int, int] = {}
        self.desk: shm.Desk | None = None  # where other threads wait, the quick way
        self._loop = self._mark = 0

    @property
    def slowly(self) -> tuple[dict[int, Any], dict[int, Any]]:
        """By chain: the threads that wait the slow way, and loops that cannot let anybody in."""
        return self._waiting, self._stuck

    def loop_runs(self, thread: int) -> None:
        """Coroutines of this shard run on that thread from now on: while it waits, none of them can."""
        self._mark, self._loop = new_mark(), thread
        if self.desk is not None:
            self.desk.mark, self.desk.loop = self._mark, thread

    def blocked_by(self, context: CallContext) -> int:
        """The loops that stand still while the calling thread waits for a call that it makes in that context."""
        return context.blocked | self._mark if threading.get_ident() == self._loop else context.blocked

    def enter(self, waiting: AnyWaiting) -> None:
        with self._mutex:
            self._waiting.setdefault(waiting.chain, []).append(waiting)

    def leave(self, waiting: AnyWaiting) -> list[Any]:
        """The thread no longer waits; returns calls that came too late for it."""
        with self._mutex:
            stack = self._waiting[waiting.chain]
            stack.remove(waiting)
            if not stack:
                del self._waiting[waiting.chain]
        if not waiting.inbox:
            return []
        return [item for item in waiting.inbox if not isinstance(item, (Envelope, ChannelClosed))]

    def offer(self, chain: int, call: object, blocked: int = 0) -> bool:
        """Give a call to the latest thread that waits on its chain; False when none does, or it has enough to do.

        The loop's thread takes what it waits for, and not what another of its coroutines leads to: that goes elsewhere.
        """
        if not chain:
            return False
        if self.desk is not None and self.desk.offer(chain, call, blocked):
            return True
        with self._mutex:
            stack = self._waiting.get(chain, ())
            for waiting in reversed(stack):
                if waiting.thread == self._loop and not self._leads_to(blocked):
                    continue
                if len(waiting.inbox) >= MAX_OFFERED:
                    return False
                waiting.deliver(call)
                return True
            return False

    def _leads_to(self, blocked: int) -> bool:
        """Whether the waits of this shard's loop include one that the call with those marks is made for."""
        return blocked & self._mark == self._mark

    def depth(self, chain: int) -> Depth:
        """How many threads wait on that chain: who waits above these waits for the doings of the call that begins now."""
        with self._mutex:
            slowly = len(self._waiting.get(chain, ()))
        return slowly, 0 if self.desk is None else self.desk.depth(chain)

    def cancel(self, chain: int, depth: Depth = (0, 0)) -> None:
        """Who waits in that chain, above ``depth``, does so for a call that nobody wants any more: tell whom they wait for."""
        with self._mutex:
            waiting = self._waiting.get(chain, [])[depth[0] :]
        for each in waiting:
            if each.asks is not None:
                each.asks.cancel(each)
        if self.desk is not None:
            asking = self.desk.asking(chain)
            for link, call_id in asking[: max(0, len(asking) - depth[1])]:  # the latest come first
                link.post(Envelope(kind=Kind.CANCEL, call_id=call_id))

    def holds_up(self, chain: int, blocked: int) -> bool:
        """Whether the loop waits for this very call: it came of that chain, with those marks.

        Coroutines of one loop that were begun by one call are of one chain, so that alone says nothing: while one of them
        waits without awaiting, a call that another one leads to just comes later.
        """
        if not self._loop or not self._leads_to(blocked):
            return False
        with self._mutex:
            if any(waiting.thread == self._loop for waiting in self._waiting.get(chain, ())):
                return True
        return self.desk is not None and (chain, self._loop) in self.desk.waiting()

    def threads(self) -> set[int]:
        """The threads that wait for other shards."""
        with self._mutex:
            slow = {waiting.thread for stack in self._waiting.values() for waiting in stack}
        return slow.union(thread for _, thread in self.desk.waiting()) if self.desk is not None else slow

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
