"""Reading the channels of a process: a role that one thread has at a time, and no thread of its own.

Whoever has the role waits on the descriptors of all channels and hands each message to its link. A thread that waits for a
reply takes the role and reads until its reply is there; an idle worker takes it and reads until a call is there that it may
run at once. So a message is read by the thread that has use for it, and nobody has to be woken. A thread that has the role
never runs user code and never waits for a peer: it gives the role up first.

The *guard* is the hub's own thread. It reads when nobody else does: as long as no call was made or heard, and from half a
millisecond to a millisecond after a thread that gave the role up to run user code has not come back to it. Otherwise it
looks every half millisecond whether somebody took the role meanwhile (``_turns``), and while one thread sits and reads, it
sleeps until that one leaves.

Correctness, in brief.

1. *One reader.* The role is the lock ``_role``. ``_reader``, ``_behind`` and the poll set are used by its owner alone.
2. *The role is not lost.* It is taken by ``(held,) = map(acquire, ...)`` and given up by ``release()`` in a ``finally`` without
   a loop, with no call before it: there CPython looks for no signal, so an exception of a signal handler (which strikes
   the main thread only) cannot come between having the lock and knowing it, or leave it locked.
3. *Somebody reads.* When the role is free, the guard is on its way to it: it sleeps for a bounded time (``LOOK_S``;
   ``LATER_S`` while no link expects anything), or it ``_resting``s without one. It says that it rests before it makes sure
   that somebody still reads; who gives the role up looks after that whether it rests, and rings. Whichever comes first
   sees the other. The main thread may be interrupted between the two: while it reads, no rest is longer than
   ``REST_BESIDE_MAIN_S``.
4. *Nobody waits unread.* A thread that finds the role taken enters itself in ``_followers``, then looks again whether the role
   is taken; who leaves it looks after that for followers and wakes one, which takes its place. Each follower does the same
   when it leaves, so a wake-up that went to one that had just got its reply is passed on. Where all this were to fail, 3
   ends it. Followers that need the same baton as the thread that leaves are not woken: it comes back to reading, or
   passes the baton on, before any of them could go on.
5. *No message is lost or handed over twice.* Messages go from a channel into their link's ``arrived`` and are taken out there
   to be handled. A thread that nobody interrupts does both in one go. The main thread takes out nothing but its own
   reply; the rest it leaves where it is, entered in ``_behind`` beforehand, and whoever reads next begins with that. To lose
   one's own reply to an interrupt is to be interrupted. (Asynchronous exceptions that user code sets in other threads
   cost the link whose message was being handled, never its order.)
6. *Order.* Messages of one link are handled in the order of ``arrived``, by the owner of the role alone.

A channel that was added is closed by the owner of the role alone, after its descriptor was taken out of the poll set: the
kernel gives the number of a closed descriptor to the next channel, and the two must not be mistaken for each other.

A little beyond 400 lines: the argument above speaks of every line below, and is checked against them in one place.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
import traceback
import weakref
from collections import deque
from typing import Any

from shardwright.errors import ChannelClosed, ProtocolViolation
from shardwright.guest._bell import Bell, heeding_signals
from shardwright.guest._chains import Patience, Waiting
from shardwright.guest._mailbox import Mailbox
from shardwright.guest._poll import Poll
from shardwright.guest._reading import Reader, Waits, Worker
from shardwright.guest._service import reads, serves
from shardwright.model.ids import SessionNumber

LOOK_S = 0.0005  # a thread that runs a call may keep the role unattended for one to two of these
QUIET_LOOKS = 4  # so many without any news, and the guard rests
LATER_S = 0.02  # when nobody expects anything, the guard leaves the role to the next caller for so long
REST_BESIDE_MAIN_S = 0.05

_AT_ONCE = (False,)


class Hub:
    """Reads every channel added to it. ``start`` must be called in the process that uses it (after any fork)."""

    def __init__(self, name: str = "hub") -> None:
        self._name = name
        self._poll = Poll()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._poll.register(self._wake_read.fileno(), None)
        self._todo: deque[tuple[bool, Reader]] = deque()
        self._readers: dict[Reader, int] = {}  # and the descriptors by which they are registered
        self._role = threading.Lock()
        self._reader = 0  # the thread that has it
        self._turns = 0  # how often it was taken
        self._behind: dict[Reader, None] = {}
        self._followers: dict[Waits, None] = {}
        self._bell = Bell()
        self._resting = False
        self._wanted = False
        self._defect: BaseException | None = None
        self._closing = False
        self._why_ended = ""  # not empty: nobody reads any more
        self._thread: threading.Thread | None = None
        self._mutex = threading.Lock()
        self.awaited = 0  # outcomes that no thread waits for, but an event loop
        self.gave = False  # a worker was given a call, after which it will want to read
        self.yields = False  # a thread that reads for itself was given what it waited for
        _hubs.add(self)

    def __repr__(self) -> str:
        return f"<Hub {self._name}, {len(self._readers)} channels>"

    @property
    def reader(self) -> int:
        """The identity of the thread that reads now; 0 for none."""
        return self._reader

    def add(self, reader: Reader) -> None:
        """Read this channel from now on. When that cannot be, it is closed and ``on_closed`` is called here."""
        with self._mutex:
            why = self._why_ended
            if not why and self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # the limit of processes is reached
                    why = f"no thread to read it with: {error}"
                else:
                    self._thread = thread
            if not why:
                self._todo.append((True, reader))
        if why:
            reader.channel.close()
            reader.on_closed(ChannelClosed(why))
        else:
            self._do_soon()

    def retire(self, reader: Reader) -> None:
        """Stop reading this channel and close it, soon; ``on_closed`` is not called for that."""
        if self.on_thread():
            self._unregister(reader)
            return
        with self._mutex:
            read = self._thread is not None and not self._why_ended
            if read:
                self._todo.append((False, reader))
        if read:
            self._do_soon()
        else:
            reader.channel.close()

    def on_thread(self) -> bool:
        """Whether the calling thread is the one that reads."""
        return self._reader == threading.get_ident()

    def close(self) -> None:
        """Stop reading and forget all channels (their owners close them)."""
        with self._mutex:
            self._closing = True
            thread = self._thread
            if thread is None:
                self._why_ended = "the hub was closed"
        self.poke()
        self._bell.ring()
        if thread is not None and thread is not threading.current_thread():
            thread.join(5)
        self._poll.close()
        self._wake_read.close()
        self._wake_write.close()

    def poke(self) -> None:
        """Wake the thread that reads, to look around."""
        with contextlib.suppress(BlockingIOError, OSError):  # full: it is awake anyway; closed: it has ended
            self._wake_write.send(b"\0")

    def call_guard(self) -> None:
        """Have the guard read now, if nobody does. To be called after whatever is to be seen to."""
        self._wanted = True
        self._bell.ring()

    # -- threads that have something to wait for -------------------------------------------------------------------

    @property
    def attended(self) -> bool:
        """Whether somebody reads, or is about to: whoever waits need not."""
        return self._role.locked() or self._closing or bool(self._behind or self._todo)

    def read_for(self, waiting: Waits, timeout_s: float | None) -> bool:
        """Read until something is there for the calling thread, or the time is over (or it must be looked whether it is).

        False, and nothing was done, when another thread reads.
        """
        if self._closing or ((self._behind or self._todo) and waiting.thread == threading.main_thread().ident):
            return False  # that is for others to see to
        held = False
        try:
            (held,) = map(self._role.acquire, _AT_ONCE)
            if held:
                self._lead(waiting, timeout_s)
            return held
        finally:
            if held:
                waiting.leads = False
                reads.for_others = False
                self._reader = 0
                self._role.release()
                self._left(waiting.baton)

    has_ears = False

    def ear(self) -> None:
        """A thread waits by its bell alone."""
        return None

    def read_until_ready(self, listener: object, timeout_s: float | None) -> bool:
        """An event loop waits for descriptors alone."""
        return False

    def waiting(self, chain: int, session: SessionNumber, mailbox: Mailbox | None, patience: Patience) -> Waiting:
        """The calling thread's ticket for a call."""
        return Waiting(chain, session, mailbox, self, patience)

    def wait(self, waiting: Waits, timeout_s: float | None) -> None:
        """Until something is in its inbox, the time is over, or for another reason. Reads if nobody else does."""
        if not self.read_for(waiting, timeout_s):
            self.follow(waiting)
            try:
                if self.attended and not waiting.inbox:
                    waiting.bell.wait(heeding_signals(waiting.thread, timeout_s))
            finally:
                self.unfollow(waiting)

    def delivered(self, waiting: Waits) -> bool:
        """Its inbox was filled, by the calling thread. Whether its owner will look at it without being rung for."""
        if waiting.leads:
            if waiting.thread != threading.get_ident():
                self.poke()
            return True
        self.told(waiting)
        return False

    def rouse(self, worker: Worker) -> None:
        """That worker was given work while it reads."""
        self.poke()

    def follow(self, waiting: Waits) -> None:
        """That thread is going to sleep: wake it when it is to read. Look at ``attended`` after this."""
        self._followers[waiting] = None

    def told(self, waiting: Waits) -> None:
        """Any thread: that one has what it waited for, and may be expected to read for itself the next time."""
        self._followers.pop(waiting, None)
        self.yields = True

    def unfollow(self, waiting: Waits) -> None:
        """It does not wait any more. If it was woken to read, somebody else is."""
        self._followers.pop(waiting, None)
        if self._followers and not self._role.locked():
            self._left(None)

    def _lead(self, waiting: Waits, timeout_s: float | None) -> None:
        self._turns += 1
        self._reader = waiting.thread
        reads.for_others = True
        waiting.leads = True
        turn = self._turn_of_main if waiting.thread == threading.main_thread().ident else self._turn
        inbox = waiting.inbox
        end_s = 0.0 if timeout_s is None else time.monotonic() + timeout_s
        while not inbox and not self._closing and turn(waiting, timeout_s):
            if timeout_s is not None and (timeout_s := end_s - time.monotonic()) <= 0:
                return

    def read_until_found(self, worker: Worker, owed: Any = None) -> bool:
        """Read on a worker's thread until its mailbox has found work for it, or another thread had better read. False."""
        if self._closing or not self._role.acquire(False):
            return False
        self._turns += 1
        self._reader = threading.get_ident()
        reads.for_others = True
        self.yields = False
        try:
            while worker.found is None and not self.yields and not self._closing:
                self._turn(None, None)
        except BaseException:  # user code's, set for a call that has ended
            traceback.print_exc()
        finally:
            reads.for_others = False
            self._reader = 0
            self._role.release()
            self._left(None if worker.found is None else worker.baton)
        return False

    def glance(self, baton: object) -> None:
        """Read what is there, without waiting, if nobody reads; by a worker that has that baton, and more to do."""
        if self._closing or not self._role.acquire(False):
            return
        self._turns += 1
        self._reader = threading.get_ident()
        reads.for_others = True
        try:
            self._turn(None, 0.0)
        except BaseException:
            traceback.print_exc()
        finally:
            reads.for_others = False
            self._reader = 0
            self._role.release()
            self._left(baton)

    def _left(self, baton: object | None) -> None:
        """The calling thread gave the role up, and goes on with that baton, or has none."""
        for follower in list(self._followers):
            if follower.baton is None or follower.baton is not baton:
                follower.ring()
                return
        if self.awaited or self._todo or self._behind or self._closing or self._defect is not None:
            self.call_guard()
        elif self._resting:
            self._bell.ring()

    # -- the guard ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        serves("the reading of every channel")
        why = "the hub was closed"
        try:
            self._guard()
        except BaseException as defect:  # silent, it would leave every caller waiting for ever
            why = f"the thread that reads all channels failed, which is a defect of Shardwright: {defect!r}"
            with contextlib.suppress(Exception):
                print(f"{self._name}: {why}", file=sys.stderr)
                traceback.print_exception(defect)
        if not self._closing:
            self.poke()
        self._role.acquire(True, 5)  # for good
        self._reader = threading.get_ident()
        with self._mutex:
            self._why_ended = why
            todo, self._todo = self._todo, deque()
        for add, reader in todo:
            if not add:
                self._unregister(reader)
        if not self._closing:
            for reader in [*self._readers, *(reader for add, reader in todo if add)]:
                with contextlib.suppress(Exception):
                    self._end(reader, ChannelClosed(why))
        self._reader = 0

    def _guard(self) -> None:
        seen, quiet, spared = -1, 0, False
        while not self._closing:
            if self._defect is not None:
                raise self._defect
            wanted, self._wanted = self._wanted, False
            turns = self._turns
            if turns != seen and not wanted and seen >= 0:
                seen, quiet, spared = turns, 0, False
                self._bell.wait(LOOK_S)
            elif not self._role.locked():
                if wanted or spared or seen < 0 or self._is_urgent():
                    if self._role.acquire(False):
                        self._attend()
                        seen = self._turns
                        self._bell.wait(LOOK_S)
                    quiet, spared = 0, False
                else:
                    spared = True
                    self._bell.wait(LATER_S)
            elif quiet < QUIET_LOOKS:
                quiet += 1
                self._bell.wait(LOOK_S)
            else:
                beside_main = self._reader in (0, threading.main_thread().ident)
                self._resting = True
                if self._turns == seen and self._role.locked() and not self._wanted and not self._closing:
                    self._bell.wait(REST_BESIDE_MAIN_S if beside_main else None)
                self._resting = False

    def _is_urgent(self) -> bool:
        return bool(self._behind or self._todo or self._followers) or any(r.expecting for r in list(self._readers))

    def _attend(self) -> None:
        """Read, until a thread has reason to do so itself. The role is taken."""
        self._turns += 1
        self._reader = threading.get_ident()
        self.gave = self.yields = False
        try:
            while not self._closing and self._defect is None:
                self._turn(None, None)
                if self.gave or self.yields:
                    if not self.awaited and not self._followers and not self._behind and not self._todo:
                        return
                    self.gave = self.yields = False
        finally:
            self._reader = 0
            self._role.release()

    # -- the owner of the role ---------------------------------------------------------------------------------

    def _turn(self, waiting: Waits | None, timeout_s: float | None) -> bool:
        if self._behind or self._todo:
            self._catch_up()
            timeout_s = 0.0
        for reader in self._poll.wait(timeout_s):
            if reader is None:
                with contextlib.suppress(BlockingIOError):
                    self._wake_read.recv(4096)
            else:
                self._drain(reader)
        if self._todo:
            self._catch_up()
        return True

    def _catch_up(self) -> None:
        for reader in list(self._behind):
            self._drain(reader)
        while self._todo:
            add, reader = self._todo.popleft()
            if add:
                self._register(reader)
            else:
                self._unregister(reader)

    def _turn_of_main(self, waiting: Waits, timeout_s: float | None) -> bool:
        """The same for a thread that may be interrupted anywhere. False: what there is to do is for another."""
        if self._behind or self._todo:
            return False
        for reader in self._poll.wait(heeding_signals(waiting.thread, timeout_s)):
            if reader is None:
                with contextlib.suppress(BlockingIOError):
                    self._wake_read.recv(4096)
                continue
            self._behind[reader] = None
            if not reader.channel.keeps_on_interrupt:
                return False
            try:
                reader.channel.take_ready(reader.arrived)
            except ChannelClosed:
                return False  # it will be said again
            while reader.arrived:
                if not reader.take_own(waiting, reader.arrived[0], reader.arrived):
                    return False
            del self._behind[reader]
        return True

    def _do_soon(self) -> None:
        if self._role.locked():
            self.poke()
        else:
            self.call_guard()

    def _register(self, reader: Reader) -> None:
        try:
            descriptor = reader.channel.arrivals_fileno()
            stale = self._poll.register(descriptor, reader)
            if stale is not None:  # somebody closed a registered channel behind our back, and this one got its number
                self._readers.pop(stale, None)
                self._end(stale, ChannelClosed("the channel was closed while it was read"))
        except Exception as error:  # it was closed meanwhile, or there are no descriptors left
            self._end(reader, ChannelClosed(f"the channel cannot be read: {error}"))
        else:
            self._readers[reader] = descriptor

    def _unregister(self, reader: Reader) -> None:
        """Stop reading it, then close it."""
        self._behind.pop(reader, None)
        descriptor = self._readers.pop(reader, None)
        if descriptor is not None:
            self._poll.unregister(descriptor)
        reader.channel.close()

    def _end(self, reader: Reader, reason: ChannelClosed) -> None:
        self._unregister(reader)
        try:
            reader.on_closed(reason)
        except Exception as defect:  # then somebody was not told, and may wait for ever
            self._defect = defect
            self.call_guard()

    def _drain(self, reader: Reader) -> None:
        if reader not in self._readers:
            self._behind.pop(reader, None)
            return
        reason: ChannelClosed | None = None
        arrived = reader.arrived
        try:
            reader.channel.take_ready(arrived)
        except ChannelClosed as closed:
            reason = closed
        try:
            while arrived:
                reader.on_frame(arrived.popleft())
                if reader not in self._readers:
                    return
        except Exception as defect:  # a message that defeats us costs its sender the channel, and nobody else
            reason = ProtocolViolation(f"a message could not be handled: {defect!r}")
        except BaseException as interrupt:
            self._end(reader, ChannelClosed(f"the reading was interrupted: {interrupt!r}"))
            raise
        if reason is not None:
            self._end(reader, reason)
        elif self._behind:
            self._behind.pop(reader, None)


_hubs: weakref.WeakSet[Hub] = weakref.WeakSet()


def _forked() -> None:
    """A child that user code forked has our descriptors, but the conversations are its parent's: it reads nothing."""
    for hub in list(_hubs):
        hub._role = threading.Lock()
        hub._role.acquire()
        hub._reader = 0


os.register_at_fork(after_in_child=_forked)
