"""The serial mailbox of a shard: one call runs at a time, and whoever waits for another shard lets the next one in.

Plain Python code was written for one thread. A shard therefore runs its calls one by one, under a *baton*. A call that
waits for another shard puts the baton down, so calls that come back (A to B to A), and two shards that call each other,
do not deadlock: the places where a call may be overtaken are just its own calls to other shards (and the awaits of its
coroutines), never between two of its other lines.

Correctness, in brief. All fields are guarded by ``_mutex``, and ``_mutex`` is never held while waiting. The baton is held
(``_held``) or free. It is handed over, never dropped while somebody wants it: whoever puts it down gives it to the oldest
resumer, else to a worker with the oldest queued call, and only if neither exists is it free. A resumer waits on a lock of
its own that just the giver releases, so no wake-up is lost. New calls never overtake resumers, resumers are finite, so
no queued call starves as long as running calls end or wait. Worker threads are bounded: when all of them wait for other
shards, a further call is refused (Overloaded) instead of queued, for nobody here could be sure ever to run it.

An idle worker reads (``_hub``), if nobody else does: then a call that may run at once is run by the thread that read it.
While it reads it is ``_reading``, and not among the idle. It is given a call, together with the baton, in ``found``: by itself
when it reads one, by others where no worker is idle, and then it is woken from its reading.
Where the hub has ears (rings), all idle workers wait there, and whichever of them reads runs what it finds.

A little beyond 400 lines: who has the baton, and who gets it next, is decided in one place.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from shardwright.errors import Overloaded
from shardwright.guest._bell import Bell
from shardwright.transport import shm

if TYPE_CHECKING:
    from shardwright.guest._hub import Hub
    from shardwright.guest._ring_hub import RingHub

if TYPE_CHECKING or shm.available():
    from shardwright.transport.shm import Baton, Worker
else:

    class Baton:
        """The fields of a mailbox that the quick way of calls looks at (``transport/shm/_calls.c``)."""

    class Worker:
        """Those of a worker."""


Work = Callable[[], None]  # must not raise
MAX_WORKERS = 256
_READ_EVERY = 8  # calls out of the queue, by a worker beside which nobody reads


class Mailbox(Baton):
    """Runs work one at a time on worker threads. ``limit`` bounds the calls that may wait in the queue."""

    resumes = True  # whether ``resume`` and what belongs to it give all that ``acquire`` does

    def __init__(self, *, limit: int, name: str = "shard", max_workers: int = MAX_WORKERS) -> None:
        self._limit = limit
        self._name = name
        self._max_workers = max_workers
        self._mutex = threading.Lock()
        self._locked = self._mutex.locked
        self._held = False
        self._holder: int | None = None
        self._queue: deque[Work] = deque()
        self._resumers: deque[AnyWaiter] = deque()
        self._idle: list[_Worker] = []
        self._workers = 0
        self._closed = False
        self._reading: _Worker | None = None
        self._by_thread: dict[int, _Worker] = {}
        self.threads: set[int] = set()  # of its workers
        self.hub: Hub | RingHub | None = None  # what idle workers read

    def __repr__(self) -> str:
        return (
            f"<Mailbox {self._name} {'busy' if self._held else 'free'}, {len(self._queue)} queued, "
            f"{len(self._resumers)} resuming, {self._workers} workers>"
        )

    @property
    def depth(self) -> int:
        """Calls that wait in the queue."""
        return len(self._queue)

    @property
    def contended(self) -> bool:
        """Whether somebody waits for the baton."""
        return bool(self._queue or self._resumers)

    def submit(self, work: Work) -> None:
        """Run ``work`` when its turn comes. Raises Overloaded when the queue is full; then it will not run."""
        with self._mutex:
            if self._closed:
                raise Overloaded("the shard is stopping")
            if self._held:
                if len(self._queue) >= self._limit:
                    raise Overloaded(
                        f"{self._name}: {len(self._queue)} calls already wait (queue = {self._limit})",
                        remedy="slow the callers down, raise `queue`, or raise `scale.max`",
                    )
                self._queue.append(work)
                return
            hub = self.hub
            if hub is not None and hub.has_ears:
                mine = self._by_thread.get(threading.get_ident())
                if mine is not None and mine.listens:  # it reads: so it runs that itself, when it has read the rest
                    mine.listens = False
                    self._idle.remove(mine)
                    mine.found = work
                    self._holder = mine.thread
                    self._held = True
                    return
            reading = self._reading
            if reading is not None and reading.thread == threading.get_ident() and reading.found is None:
                self._queue.append(work)
                reading.found = self._queue.popleft()
                self._holder = reading.thread
                self._held = True
                return
            if self.hub is not None:
                self.hub.gave = True
            self._held = True
            try:
                if self._hand(work):
                    return
            except RuntimeError as error:  # no thread to be had: the limit of processes is reached
                self._pass_on()
                raise Overloaded(f"{self._name}: no thread for a further call: {error}") from None
            self._held = False
            raise Overloaded(f"{self._name}: all {self._max_workers} threads of the shard wait for other shards")

    @property
    def holder(self) -> int | None:
        """The identity of the thread that has the baton."""
        return self._holder

    def holds(self) -> bool:
        """Whether the calling thread has the baton."""
        return self._held and self._holder == threading.get_ident()

    def acquire(self) -> None:
        """Take the baton, ahead of queued calls; waits while another thread has it.

        What interrupts the wait (Ctrl-C) is raised with the baton not taken.
        """
        with self._mutex:
            if not self._held:
                self._held = True
                self._holder = threading.get_ident()
                return
            waiter = Waiter()
            self._resumers.append(waiter)
        try:
            while not waiter.given:
                waiter.wait(None)
            self._holder = threading.get_ident()
        except BaseException:
            with self._mutex:
                if waiter in self._resumers:
                    self._resumers.remove(waiter)
                else:  # it was handed to us just now
                    self._pass_on()
            raise

    def release(self) -> None:
        """Put the baton down and let the next one run. Nothing happens when the calling thread has not got it.

        So a ``finally`` may release after an interrupted ``acquire``, and never takes the baton from another.
        """
        with self._mutex:
            if self._held and self._holder == threading.get_ident():
                self._pass_on()

    # -- a thread that waits for something, and for the baton, at once ---------------------------------------------

    def resume(self, waiter: AnyWaiter) -> None:
        """What ``waiter`` waits for is there: it gets the baton when its turn comes, and not before is it woken.

        Any thread. Nothing happens when it was asked for already; ``park`` allows it anew.
        """
        with self._mutex:
            if waiter.asked:
                return
            waiter.asked = True
            if self._held:
                self._resumers.append(waiter)
                return
            self._held = True
            waiter.wake()

    def ask(self, waiter: AnyWaiter) -> bool:
        """What ``waiter`` waits for was seen to be there: it gets the baton, ahead of queued calls. Whether it has it now."""
        with self._mutex:
            if not waiter.asked:
                waiter.asked = True
                if not self._held:
                    self._held = waiter.given = True
                else:
                    self._resumers.append(waiter)
            return waiter.given

    def taken(self, thread: int) -> None:
        """The calling thread goes on with the baton that it was given as a waiter."""
        self._holder = thread

    def claim(self, waiter: Waiter) -> None:
        """``ask``, and wait for it. Interrupted, ``reclaim``."""
        self.ask(waiter)
        while not waiter.given:
            waiter.wait(None)
        self._holder = threading.get_ident()

    def put_down(self, waiter: AnyWaiter) -> Any:
        """The same as ``park``; whoever got the baton is owed a word, which the caller is to ``pay``. None: nobody is."""
        with self._mutex:
            waiter.asked = waiter.given = False
            if self._held and self._holder == threading.get_ident():
                return self._pass_on(owing=True)
        return None

    def park(self, waiter: AnyWaiter) -> None:
        """Put the baton down, to ``wait`` again. What came meanwhile is to be looked for after this.

        As ``release``, it never takes the baton from another: an interrupted ``acquire`` may have come before.
        """
        with self._mutex:
            waiter.asked = waiter.given = False
            if self._held and self._holder == threading.get_ident():
                self._pass_on()

    def reclaim(self, waiter: AnyWaiter) -> None:
        """Take the baton although what was waited for did not come, or nobody looked; as ``acquire``."""
        with self._mutex:
            given = waiter.asked and waiter not in self._resumers
            if given:
                self._holder = threading.get_ident()
            elif waiter.asked:
                self._resumers.remove(waiter)
        if not given:
            self.acquire()

    def _pass_on(self, *, owing: bool = False) -> Any:
        """Give the baton to the next one, or free it. Called under the mutex.

        ``owing``: the next one is told, but if that can be left to the caller not woken; returns its ear then.
        """
        self._holder = None
        if self._resumers:
            return _tell(self._resumers.popleft(), owing=owing)
        if self._queue:
            try:
                found = self._hand(self._queue[0], owing=owing)
                if found:
                    self._queue.popleft()
                    return None if found is True else found
            except RuntimeError:
                pass  # no thread to be had: it stays in the queue
        self._held = False
        return None

    def close(self) -> None:
        """End idle workers; queued calls are dropped, running ones end by themselves."""
        with self._mutex:
            self._closed = True
            self._queue.clear()
            idle, self._idle = self._idle, []
            for worker in idle:
                worker.ends = True
                if worker.listens:
                    worker.ear.wake()
                else:
                    worker.give(None)

    def _hand(self, work: Work, *, owing: bool = False) -> Any:
        """Give a call to a worker, with the baton; False when there are too many. Called under the mutex.

        Raises RuntimeError when no thread is to be had; then nothing was given. ``owing`` as in ``_pass_on``.
        """
        if self._idle:
            worker = self._idle.pop()
            if not worker.listens:
                worker.give(work)
                return True
            worker.listens = False
            worker.found = work
            if owing:
                worker.ear.owe()
                return worker.ear
            worker.ear.wake()
            return True
        reading = self._reading
        if reading is not None and reading.found is None:
            reading.found = work
            assert self.hub is not None
            self.hub.poke()
            return True
        if self._workers >= self._max_workers:
            return False
        _Worker(self, f"{self._name}-{self._workers + 1}").give(work)
        self._workers += 1
        return True

    def _next(self, worker: _Worker) -> Work | None:
        """The worker that has the baton asks for more; None says: be idle, the baton is no longer yours."""
        hub = self.hub
        if hub is not None and hub.has_ears:
            return self._next_at_ear(worker, hub)
        work: Work | None = None
        with self._mutex:
            if self._resumers:  # that one will read, when it has nothing else to do
                self._holder = None
                self._resumers.popleft().wake()
                self._idle.append(worker)
                return None
            if self._queue:
                work = self._queue.popleft()
            else:
                self._holder = None
                self._held = False
                if hub is None or self._closed or self._reading is not None:
                    self._idle.append(worker)
                    return None
                self._reading = worker
        if work is not None:
            worker.hurried += 1
            if hub is not None and not worker.hurried % _READ_EVERY:
                hub.glance(self)
            return work
        assert hub is not None
        try:
            hub.read_until_found(worker)
        finally:
            with self._mutex:
                self._reading = None
                work, worker.found = worker.found, None
                if work is None and self._queue and not self._held:  # it came when no thread was to be had
                    work = self._queue.popleft()
                    self._held = True
                if work is None:
                    self._idle.append(worker)
        return work

    def _next_at_ear(self, worker: _Worker, hub: Hub | RingHub) -> Work | None:
        """The same, where idle workers wait for messages like everybody else."""
        if worker.ear is None:
            worker.ear = hub.ear()
            self._by_thread[worker.thread] = worker
        while True:
            work: Work | None = None
            owed: Any = None
            with self._mutex:
                if self._queue and not self._resumers:
                    work = self._queue.popleft()
                else:
                    owed = self._pass_on(owing=True)
                    self._idle.append(worker)
                    worker.listens = worker.ear is not None and not self._closed
            if work is not None:
                worker.hurried += 1
                if not worker.hurried % _READ_EVERY:
                    hub.glance(self)
                return work
            if worker.listens or worker.found is not None:
                if hub.read_until_found(worker, owed):  # it answered calls meanwhile, and has the baton again
                    continue
            elif owed is not None:
                owed.pay()
            with self._mutex:
                worker.listens = False
                work, worker.found = worker.found, None
            return work


class AnyWaiter(Protocol):
    """Who waits for the baton. ``asked``: it is to get it, or has it; ``given``: it has it.

    ``owed_at``: where it can be owed a word.
    """

    asked: bool
    given: bool

    @property
    def owed_at(self) -> Any: ...

    def wake(self) -> None:
        """It has the baton: it is to know."""


def _tell(waiter: AnyWaiter, *, owing: bool) -> Any:
    """It has the baton. Its ear, if the caller owes it a word; None when it has been woken."""
    ear = waiter.owed_at
    if not owing or ear is None:
        waiter.wake()
        return None
    waiter.given = True
    ear.owe()
    return ear


class Waiter(Bell):
    """Who waits for the baton. ``asked``: it is to get it, or has it; ``given``: it has it.

    It may be rung for other reasons as well.
    """

    __slots__ = ("asked", "given")
    owed_at = None

    def __init__(self, *, asked: bool = False) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.asked = asked
        self.given = asked

    def wake(self) -> None:
        """It has the baton."""
        self.given = True
        self.ring()


class _Worker(Worker):
    """One thread of the mailbox. It is given work only together with the baton."""

    def __init__(self, mailbox: Mailbox, name: str) -> None:
        self._mailbox = mailbox
        self._given: deque[Work | None] = deque()
        self._wake = threading.Lock()
        self._wake.acquire()
        self._name = name
        self.thread = 0
        self.found: Work | None = None  # while it reads
        self.hurried = 0  # calls out of the queue
        self.ear: Any = None  # where it waits while it is idle, if its hub has such places
        self.listens = False  # it is idle, and waits there
        self.ends = False

    @property
    def baton(self) -> Mailbox:
        return self._mailbox

    def give(self, work: Work | None) -> None:
        """Raises RuntimeError when its thread cannot be started; then nothing was given."""
        if not self.thread:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            thread.start()
            self.thread = thread.ident or 0
            self._mailbox.threads.add(self.thread)
        self._given.append(work)
        self._wake.release()

    def _run(self) -> None:
        mailbox = self._mailbox
        ident = threading.get_ident()
        while True:
            self._wake.acquire()
            work = self._given.popleft()
            if work is None:
                return
            while work is not None:
                mailbox._holder = ident
                work()
                work = mailbox._next(self)
            if mailbox._closed:
                return
