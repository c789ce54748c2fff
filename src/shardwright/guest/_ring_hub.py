"""Reading the rings of a process: the same role as in ``_hub``, kept by the rings' own doorbell instead of a lock and a guard.

Who has the role, who gets it next, and who must be woken for it is the doorbell's affair (``transport.shm._channel`` says
what it promises; a model of it is checked). Here is what a thread does with the role: it takes messages and hands each to its
link. The hub's own thread is the *standby*: it waits like everybody else, so that somebody always does. A thread that waits for
a reply waits at a place of its own, and displaces whoever sleeps; a worker *lends* the role while it runs a call that it read,
and has it back without a word if it is quick.

Correctness, in brief.

1. *One reader.* ``_arrived``, ``_early`` and ``_todo`` are used between ``wait() == READS`` and the next ``wait``, ``lend`` or
   ``leave`` of the same thread alone, and the doorbell has one such thread at a time.
2. *The role is not lost.* Every ``wait`` stands in a ``try`` whose ``finally`` begins with ``leave`` (or ``lend``), where
   CPython looks for no signal before; an exception that a signal handler raises within ``wait`` leaves without the role.
3. *Somebody reads.* The standby waits as long as the hub lives: when a thread leaves, the role is the last waiter's, asleep as
   it is, and a message wakes it; when one lends, the same after a grace. Nothing here is a clock, but for 4.
4. *No message is lost or handed over twice.* Messages go from the rings into ``_arrived`` without a bytecode in between, and
   are taken out there to be handled, in order. The main thread, which signals interrupt anywhere, takes out nothing but its own
   reply, and leaves when something else comes first; then it pokes, and the next reader begins with that. Interrupted between
   the two it does not poke: therefore the standby looks every ``BESIDE_MAIN_S`` once the main thread has read.
5. *Nobody waits for what has come.* Whoever fills an inbox from another thread rings its owner, and a ring that comes before
   the wait ends the wait. A thread looks at its inbox after it handled messages and before it waits.
6. *Early messages.* A channel rings from the moment it is opened, before its link is added: what comes by then, its end too,
   is kept in ``_early``, and handled by whoever reads when it takes the link out of ``_todo``, before anything that came
   later. Nobody is woken for a link of which nothing has come. ``add`` appends to ``_todo``, then looks into ``_early``, and
   pokes if something is there; who reads puts into ``_early`` what is nobody's, then looks into ``_todo``: whichever of them
   comes second sees what the first left. What comes later wakes a reader itself, who looks into ``_todo`` before it handles.
7. *The baton is not lost.* Whoever is given it is told (``given``, and a word at its ear) before the giver does anything else;
   to rouse it is left to the giver's own ``wait``, at the latest after one batch of messages, or to the ``finally`` there.

A channel that is no ring (a sandbox that memory does not reach into) is watched by a thread of its own, which wakes the reader
when there is something to take.

A little beyond 400 lines: as in ``_hub``, the argument above speaks of every line below.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Collection
from itertools import chain
from typing import Any, Protocol

from shardwright.contracts.transport import Channel
from shardwright.errors import ChannelClosed, ProtocolViolation
from shardwright.guest._chains import Patience, Waiting
from shardwright.guest._mailbox import Mailbox
from shardwright.guest._pump import Pump
from shardwright.guest._reading import Reader, Worker
from shardwright.guest._ring_waiting import RingWaiting
from shardwright.guest._service import reads, serves
from shardwright.model.ids import SessionNumber
from shardwright.transport.shm import READS, Desk, Doorbell, RingChannel, RingTransport

GRACE_NS = 500_000  # a worker that runs a call may leave what comes unread for so long
BESIDE_MAIN_S = 0.05
_AT_ONCE = 64  # messages that are taken in one go
_LONGEST_S = 1e9
_CLOSING_S = 0.005
_ONCE = (_AT_ONCE,)


class Listener(Protocol):
    """An event loop that waits for messages. ``ready``: what it has to do; ``ear``: where it is woken when there is more."""

    ready: Collection[Any] | None
    ear: Any


class _Ear(threading.local):
    """Where the calling thread waits."""

    waiter: Any = None


class RingHub:
    """Reads every channel added to it. To be made in the process that uses it (after any fork)."""

    def __init__(self, name: str = "hub") -> None:
        """Raises OSError when the system refuses memory or descriptors."""
        self._name = name
        self.bell: Doorbell[Any] = Doorbell()
        self.transport = RingTransport(doorbell=self.bell)
        self._arrived: deque[tuple[Channel, Any]] = deque()
        self._early: weakref.WeakKeyDictionary[Channel, list[Any]] = weakref.WeakKeyDictionary()
        self._todo: deque[Reader] = deque()
        self._readers: dict[Channel, Reader] = {}
        self._pump: Pump | None = None
        self._reader = 0
        self.main = threading.main_thread().ident
        self._main_reads = False
        self._defect: BaseException | None = None
        self._closing = False
        self._why_ended = ""  # not empty: nobody reads any more
        self._thread: threading.Thread | None = None
        self._standby: Any = None
        self._mutex = threading.Lock()
        self._ear = _Ear()
        self._free = 0  # threads that wait for a reply and for nothing else
        self.gave = False
        self.desk: Desk | None = None  # set by ``_lines``, before anybody waits
        _hubs.add(self)

    def __repr__(self) -> str:
        return f"<RingHub {self._name}, {len(self._readers)} channels>"

    @property
    def arrived(self) -> deque[tuple[Channel, Any]]:
        """What was taken out of the rings, and not handled yet."""
        return self._arrived

    def read(self) -> None:
        """Take what is there and hand it over, by whoever has the role."""
        self._read()

    @property
    def reader(self) -> int:
        """The identity of the thread that handles messages now; 0 for none."""
        return self._reader

    def add(self, reader: Reader) -> None:
        """Read this channel from now on. When that cannot be, it is closed and ``on_closed`` is called here."""
        channel = reader.channel
        with self._mutex:
            why = self._why_ended
            if not why and self._thread is None:
                why = self._start()
            if not why:
                self._todo.append(reader)
        if not why and not (isinstance(channel, RingChannel) and channel.doorbell is self.bell):
            why = self._watch(channel)
        if why:
            channel.close()
            reader.on_closed(ChannelClosed(why))
        elif channel in self._early:
            self.bell.poke()

    def _start(self) -> str:
        """Why there is no standby; empty when there is one."""
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            self._standby = self.bell.waiter()
            thread.start()
        except (RuntimeError, OSError) as error:  # the limit of processes is reached, or that of waiters
            return f"no thread to read it with: {error}"
        self._thread = thread
        return ""

    def _watch(self, channel: Channel) -> str:
        """Have a channel watched that does not ring here. Why it is not; empty when it is."""
        try:
            with self._mutex:
                if self._pump is None:
                    self._pump = Pump(f"{self._name}-sockets", self.bell.poke)
            self._pump.add(channel)
        except (RuntimeError, OSError, ValueError, ChannelClosed) as error:
            return f"the channel cannot be read: {error}"
        return ""

    def retire(self, reader: Reader) -> None:
        """Stop reading this channel and close it; ``on_closed`` is not called for that."""
        self._forget(reader)

    def _forget(self, reader: Reader) -> None:
        channel = reader.channel
        self._readers.pop(channel, None)
        if self._pump is not None:
            self._pump.drop(channel)
        channel.close()

    def on_thread(self) -> bool:
        """Whether the calling thread is the one that reads."""
        me = threading.get_ident()
        return self._reader == me or (self.desk is not None and self.desk.reader == me)

    def close(self) -> None:
        """Stop reading and forget all channels (their owners have closed them)."""
        with self._mutex:
            self._closing = True
            if self.desk is not None:
                self.desk.off = True
            thread, self._why_ended = self._thread, self._why_ended or "the hub was closed"
        if self._pump is not None:
            self._pump.close()
        self.bell.close()
        if thread is not None and thread is not threading.current_thread():
            thread.join(5)

    # -- threads that have something to wait for -------------------------------------------------------------------

    def ear(self) -> Any:
        """Where the calling thread waits; None when there are too many threads: the standby reads for this one."""
        mine = self._ear
        if mine.waiter is None:
            try:
                mine.waiter = self.bell.waiter()
            except (OSError, ValueError):
                return None
        return mine.waiter

    def waiting(
        self, chain: int, session: SessionNumber, mailbox: Mailbox | None, patience: Patience
    ) -> RingWaiting | Waiting:
        """The calling thread's ticket for a call."""
        ear = self.ear()
        if ear is None:
            return Waiting(chain, session, mailbox)
        return RingWaiting(chain, session, mailbox, self, patience, ear)

    def wait(self, waiting: RingWaiting, timeout_s: float | None) -> bool:
        """Until something is in its inbox and it has its baton; reads if nobody else does. False: the time is over."""
        inbox, baton, ear = waiting.inbox, waiting.at_once, waiting.ear
        is_main = waiting.bell is not None
        left_ns, end_ns = -1, 0
        if timeout_s is not None:
            left_ns = int(min(max(timeout_s, 0.0), _LONGEST_S) * 1e9)
            end_ns = time.monotonic_ns() + left_ns
        free = waiting.baton is None
        if free:
            with self._mutex:
                self._wait_free(1)
        if is_main and not self._main_reads:
            self._beside_main()
        try:
            while True:
                if inbox:
                    if baton is None or waiting.given:
                        return True
                    if baton.ask(waiting):
                        return True
                    left_ns = -1  # it will come
                elif left_ns >= 0 and end_ns:
                    left_ns = end_ns - time.monotonic_ns()
                    if left_ns <= 0:
                        return False
                if self._closing:
                    time.sleep(_CLOSING_S)
                elif is_main and self._is_for_others():
                    ear.leave()
                    self.bell.poke()
                    assert waiting.bell is not None
                    waiting.bell.wait(BESIDE_MAIN_S if left_ns < 0 else min(left_ns / 1e9, BESIDE_MAIN_S))
                elif ear.wait(left_ns, waiting.owed) == READS:
                    if is_main:
                        self._read_own(waiting)
                    else:
                        self._read()
                        if waiting.owed is not None:  # that was enough to be done before
                            waiting.owed.pay()
        finally:
            try:
                if free or self._free or is_main or (self.desk is not None and self.desk.free):
                    ear.leave()
                else:
                    ear.lend(GRACE_NS)
            except ValueError:
                pass  # the doorbell was closed
            if waiting.owed is not None:
                waiting.owed.pay()
                waiting.owed = None
            if free:
                with self._mutex:
                    self._wait_free(-1)
            if is_main and self._is_for_others():
                self.bell.poke()

    def _wait_free(self, more: int) -> None:
        self._free += more
        if self.desk is not None:
            self.desk.others = self._free

    def step_up(self, ear: Any) -> None:
        """Have back what the calling thread lent, if nobody took it up meanwhile; not to wait for anything but messages."""
        with contextlib.suppress(ValueError):
            ear.reclaim()

    def step_back(self, ear: Any) -> None:
        with contextlib.suppress(ValueError):
            ear.leave()

    def read_until_found(self, worker: Worker, owed: Any = None) -> bool:
        """Read on an idle worker's thread, if no other does, until its mailbox has given it work, or ends: False.

        True: it answered calls the quick way meanwhile, has the baton from that, and others want it.
        """
        ear = worker.ear
        if self.desk is not None:
            try:
                return self.desk.work(worker, ear, owed)
            except BaseException:  # user code's, set for a call that has ended; or the doorbell was closed
                if not self._closing:
                    traceback.print_exc()
                return False
        try:
            while worker.found is None and not worker.ends and not self._closing:
                if ear.wait(-1, owed) == READS:
                    self._read()
                    if owed is not None:  # that was enough to be done before
                        owed.pay()
        except BaseException:  # user code's, set for a call that has ended
            if not self._closing:
                traceback.print_exc()
        finally:
            try:
                if worker.found is None:
                    ear.leave()
                else:
                    ear.lend(GRACE_NS)
            except ValueError:
                pass  # the doorbell was closed
            if owed is not None:
                owed.pay()
        return False

    def read_until_ready(self, listener: Listener, timeout_s: float | None) -> bool:
        """Read on the thread of an event loop, if no other does, until it has something to do, or the time is over.

        False: it is to wait by other means.
        """
        ear = self.ear()
        if ear is None or threading.get_ident() == self.main:
            return False
        left_ns, end_ns = -1, 0
        if timeout_s is not None:
            left_ns = int(min(timeout_s, _LONGEST_S) * 1e9)
            end_ns = time.monotonic_ns() + left_ns
        listener.ear = ear  # from here on it is woken there
        try:
            while not listener.ready:
                if self._closing:
                    return False
                if end_ns:
                    left_ns = end_ns - time.monotonic_ns()
                    if left_ns <= 0:
                        break
                if ear.wait(left_ns) == READS:
                    self._read()
        except ValueError:  # the doorbell was closed
            return False
        finally:
            listener.ear = None
            with contextlib.suppress(ValueError):
                if self._free or (self.desk is not None and self.desk.free):
                    ear.leave()
                else:
                    ear.lend(GRACE_NS)
        return True

    has_ears = True
    """Whether idle workers wait there, in ``read_until_found``."""

    def poke(self) -> None:
        """Wake the thread that reads, to look around."""
        self.bell.poke()

    def glance(self, baton: object) -> None:
        """Read what is there, without waiting, if no other thread does; by a worker that has more to do."""
        ear = self.ear()
        if ear is None or self._closing:
            return
        try:
            if ear.reclaim():
                try:
                    self._read()
                finally:
                    ear.lend(GRACE_NS)
        except BaseException:
            if not self._closing:
                traceback.print_exc()

    # -- the standby -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        serves("the reading of every channel")
        why = "the hub was closed"
        standby = self._standby
        try:
            while not self._closing and self._defect is None:
                if standby.wait(int(BESIDE_MAIN_S * 1e9) if self._main_reads else -1) == READS:
                    self._read()
                elif self._main_reads and self._is_for_others():
                    self.bell.poke()
            if self._defect is not None:
                raise self._defect
        except BaseException as defect:  # silent, it would leave every caller waiting for ever
            if not self._closing:
                why = f"the thread that reads all channels failed, which is a defect of Shardwright: {defect!r}"
                with contextlib.suppress(Exception):
                    print(f"{self._name}: {why}", file=sys.stderr)
                    traceback.print_exception(defect)
        with self._mutex:
            closing, self._why_ended = self._closing, self._why_ended or why
            self._closing = True
            if self.desk is not None:
                self.desk.off = True
        if not closing:
            for reader in [*self._readers.values(), *self._todo]:
                with contextlib.suppress(Exception):
                    self._end(reader, ChannelClosed(why))
            self.bell.close()

    # -- whoever has the role --------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Take what is there and hand it over."""
        arrived = self._arrived
        self._reader = threading.get_ident()
        reads.for_others = True
        try:
            if not arrived:
                try:
                    arrived.extend(chain.from_iterable(map(self.bell.take, _ONCE)))
                except ValueError:  # it was closed
                    return
            # after the take, which forgets who poked before it
            if self._todo:
                self._enter()
            if self._pump is not None:
                self._take_from_sockets()
            while arrived:
                channel, message = arrived.popleft()
                self._handle(channel, message)
        finally:
            self._reader = 0
            reads.for_others = False
            if arrived and not self._closing:  # an exception from outside: whoever reads next is to go on
                self.bell.poke()

    def _handle(self, channel: Channel, message: Any) -> None:
        reader = self._readers.get(channel)
        if reader is None:
            if self._todo:
                self._enter()
                reader = self._readers.get(channel)
            if reader is None:
                self._early.setdefault(channel, []).append(message)  # or late: then it goes with the channel
                if self._todo:  # its link was added just now, by who saw nothing there yet
                    self._enter()
                return
        if isinstance(message, ChannelClosed):
            self._end(reader, message)
            return
        try:
            reader.on_frame(message)
        except Exception as defect:  # a message that defeats us costs its sender the channel, and nobody else
            self._end(reader, ProtocolViolation(f"a message could not be handled: {defect!r}"))
        except BaseException as interrupt:
            self._end(reader, ChannelClosed(f"the reading was interrupted: {interrupt!r}"))
            raise

    def _enter(self) -> None:
        """Links that were added, with what came before."""
        while self._todo:
            reader = self._todo.popleft()
            self._readers[reader.channel] = reader
            early = self._early.pop(reader.channel, ())
            for message in early:
                self._handle(reader.channel, message)
            if getattr(reader, "closed", False):  # it was, before it came to this
                self._readers.pop(reader.channel, None)

    def _take_from_sockets(self) -> None:
        pump = self._pump
        assert pump is not None
        while pump.readable:
            channel = pump.readable.popleft()
            messages: deque[memoryview] = deque()
            try:
                channel.take_ready(messages)
            except ChannelClosed as closed:
                self._arrived.extend((channel, message) for message in (*messages, closed))
            else:
                self._arrived.extend((channel, message) for message in messages)
                if not pump.again(channel):
                    self._arrived.append((channel, ChannelClosed("the channel was closed while it was read")))

    def _end(self, reader: Reader, reason: ChannelClosed) -> None:
        channel = reader.channel
        untaken = channel.untaken() if isinstance(channel, RingChannel) else ()
        self._forget(reader)
        try:
            reader.on_closed(reason, untaken)
        except Exception as defect:  # then somebody was not told, and may wait for ever
            self._defect = defect
            self._standby.wake()

    # -- the main thread ---------------------------------------------------------------------------------------

    def _read_own(self, waiting: RingWaiting) -> None:
        """The same for a thread that may be interrupted anywhere: up to what is for another."""
        arrived, readers = self._arrived, self._readers
        if self._is_for_others():
            return
        try:
            arrived.extend(chain.from_iterable(map(self.bell.take, _ONCE)))
        except ValueError:  # it was closed
            return
        while arrived:
            channel, message = arrived[0]
            reader = readers.get(channel)
            if reader is None or isinstance(message, ChannelClosed) or not reader.take_own(waiting, message, arrived):
                return

    def _beside_main(self) -> None:
        self._main_reads = True
        if self._standby is not None:
            self._standby.wake()

    def _is_for_others(self) -> bool:
        """Whether something is there that the main thread leaves to others."""
        return bool(self._arrived or self._todo or (self._pump is not None and self._pump.readable))


_hubs: weakref.WeakSet[RingHub] = weakref.WeakSet()


def _forked() -> None:
    """A child that user code forked has no part in its parent's conversations: it reads nothing."""
    for hub in list(_hubs):
        hub._closing = True
        hub._reader = 0
        if hub.desk is not None:
            hub.desk.off = True


os.register_at_fork(after_in_child=_forked)
