"""RingChannel: whole messages through two rings of shared memory; and how to read many channels with one thread.

As a plain ``Channel``
----------------------
``ShmTransport()`` opens channels with a doorbell of their own each. They keep the contract (``send``, ``receive``, ``fileno``,
...) and nothing more need be known. Many of them in one process are read by a selector over their ``fileno()``.

Reading many channels, fast
---------------------------
A process has one *doorbell*; ``ShmTransport(doorbell=Doorbell())`` opens all its channels on it. *Reading is a role*: at any
time at most one thread reads, and any thread may be that one for a while. Each thread waits at a ``Waiter`` of its own
(``doorbell.waiter()``, kept by the thread, cheap to keep, dropped with it)::

    waiter = doorbell.waiter()
    match waiter.wait(timeout_ns):            # C; the GIL is released while it spins or sleeps
        case READS:                           # this thread has the role
            for link, message in doorbell.take(64):   # of all channels, with their ``tag``s: whatever you like
                ...                           # mine: remember; another's: hand it over, then other_waiter.wake()
            waiter.leave()                    # or wait() again, or lend() and run user code
        case WOKEN:                           # somebody called waiter.wake(), e.g. having read my reply; not the reader
            ...
        case TIMED_OUT:                       # not the reader
            ...

What ``wait`` does: if nobody has the role, or who has it *sleeps* in ``wait``, this thread takes it: the sleeper is displaced,
which it does not notice (it goes on sleeping: no system call, no thread switch). If who has the role is awake, this thread
sleeps beside it. When the role is left, the last one who began to wait gets it, asleep as it is; a message then wakes that
very thread. So:

* a *standby* thread that does nothing but ``while True: wait(); read; `` serves an idle process;
* a caller pushes its call, then takes the role by its own ``wait``, reads its own reply, ``leave``s: the standby never ran;
* 64 callers wait; one of them reads for all, wakes each whose reply came, and hands the role on when its own reply came.

``lend(grace_ns)`` is for a reader that runs user code and hopes to be back soon: messages that come meanwhile wake a standby,
which sleeps on until the grace is over (at most once per grace: further messages cost their sender nothing) and only then
reads. ``reclaim()`` takes the role back if nobody took it: no system call unless a message came meanwhile. Without any
thread in ``wait`` nobody reads until the role is taken again.

``channel.push(parts)`` sends at once or says why not (SENT, FULL, BUSY, TOO_LARGE); ``channel.send`` is push, and waits. Both
are for any thread; neither needs the role. ``doorbell.take(limit)`` is for the reader; it is ``ready()``, which names the
channels that have something, and ``channel.take()`` of each. What was left behind makes the next ``wait`` return at once, and
``leave`` wake the next reader: who knows that more is there should take it.

An event loop reads by ``doorbell.fileno()``: when it is readable, ``take`` until the list is empty.

The end of a peer (it closed, or died) rings the doorbell like a message; once everything that was sent has been taken,
``channel.take`` raises ChannelClosed and ``doorbell.take`` gives it in a message's place, once. Close the channel then. Any
thread may close a channel at any time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from shardwright.contracts.transport import Channel, Part
from shardwright.errors import ChannelClosed, DeadlineExceeded, MessageTooLarge
from shardwright.transport.shm import _ring

_LONGEST_WAIT_S = 1e9  # what a lock still accepts
_HEADER_BYTES = 8


class RingChannel(Channel):
    """One end of a conversation through shared memory.

    ``push`` and ``take`` are the C extension's own methods, see above; the others keep the contract with their help. A message
    that fits into the ring is seen by the peer whole or not at all, also when this process dies. With a doorbell that it
    shares with other channels, ``receive``, ``receive_ready`` and ``fileno`` are not to be used: they would take the reading
    role for one channel alone.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        max_message_bytes: int,
        doorbell: _ring.Doorbell[Any] | None = None,
        tag: object = None,
    ) -> None:
        """Uses the descriptor up. Raises OSError when it is no end of a channel, or the system refuses.

        ``tag`` None: ``doorbell.ready()`` names the channel itself.
        """
        self._own = doorbell is None
        self.doorbell: _ring.Doorbell[Any] = _ring.Doorbell() if doorbell is None else doorbell
        self._end: _ring.Ring[Any] = _ring.Ring(
            descriptor, self.doorbell, self if tag is None else tag, max_message_bytes
        )
        self._max_message_bytes = max_message_bytes
        self._sending = threading.Lock()  # held by the one whose message must wait
        self._receiving = threading.Lock()
        self._waiter: _ring.Waiter | None = None
        self._polled = False
        self._failure: ChannelClosed | None = None  # to be raised by the next ``receive_ready``
        self.push: Callable[[Sequence[Part]], int] = self._end.push
        self.take: Callable[[], bytes | memoryview | None] = self._end.take
        # for who must not wait, and comes again: what is larger than the ring, piece by piece
        self.begin: Callable[[int], int] = self._end.begin
        self.push_more: Callable[[Part, int], int] = self._end.push_more
        self.finish: Callable[[], bool] = self._end.finish
        self.untaken: Callable[[], list[bytes]] = self._end.untaken

    def __repr__(self) -> str:
        return f"<RingChannel {self._end.why_closed or 'open'}>"

    @property
    def ring(self) -> _ring.Ring[Any]:
        """C's side of it."""
        return self._end

    @property
    def capacity(self) -> int:
        """Of each way, in bytes."""
        return self._end.capacity

    @property
    def tag(self) -> Any:
        return self._end.tag

    @tag.setter
    def tag(self, value: object) -> None:
        self._end.tag = value

    # -- sending -----------------------------------------------------------------------------------------------

    def send(
        self, parts: Sequence[Part], *, deadline_ns: int = 0, before_waiting: Callable[[], None] | None = None
    ) -> None:
        """As the contract says."""
        if deadline_ns and time.monotonic_ns() >= deadline_ns:
            raise _too_late(0)
        if type(parts) is not list and type(parts) is not tuple:
            parts = list(parts)
        try:
            outcome = self.push(parts)
        except BufferError:  # a part that is not contiguous
            parts = [_flat(part) for part in parts]
            outcome = self.push(parts)
        if outcome == _ring.SENT:
            return
        size = _size(parts)
        if outcome == _ring.TOO_LARGE:
            raise MessageTooLarge(
                f"message of {size} bytes; this channel carries at most {self._max_message_bytes}",
                outcome="not started",
                remedy="send it in pieces, or pass a reference to it",
            )
        self._send_slowly(parts, size, deadline_ns, before_waiting)

    def _send_slowly(
        self, parts: Sequence[Part], size: int, deadline_ns: int, before_waiting: Callable[[], None] | None
    ) -> None:
        """Wait for the senders before us and for room.

        What fits into the ring is published at once, the rest in pieces. Calls whose result must not be lost are run as
        ``(result,) = map(call, ...)``: no signal handler can come between the call and the knowledge of it (see
        ``transport.socket``).
        """
        ring = self._end
        whole = _HEADER_BYTES + (size + 7 & ~7)
        if whole > ring.capacity:
            whole = 0
        held = False
        begun = -1
        sent = 0
        views: list[Part] = [b"".join(parts)] if whole else list(parts)
        try:
            (held,) = map(self._sending.acquire, (False,))
            if not held:
                if before_waiting is not None:
                    views = _owned(views)
                    before_waiting()
                    before_waiting = None
                wait_s = -1.0
                if deadline_ns:
                    wait_s = min(max(deadline_ns - time.monotonic_ns(), 0) / 1e9, _LONGEST_WAIT_S)
                (held,) = map(self._sending.acquire, (True,), (wait_s,))
                if not held:
                    raise _too_late(0)
            (begun,) = map(ring.begin, (size,))
            assert begun == _ring.SENT, "who pushes does not keep the ring"
            while views:
                if not whole or ring.wait_for_room(whole, 0):
                    count = ring.push_more(views[0], 0)
                    sent += count
                    views = _after(views, count)
                    if not views:
                        break
                if before_waiting is not None:
                    views = _owned(views)
                    before_waiting()
                    before_waiting = None
                wait_ns = -1
                if deadline_ns:
                    wait_ns = deadline_ns - time.monotonic_ns()
                    if wait_ns <= 0:
                        raise _too_late(sent)
                ring.wait_for_room(whole or min(size - sent + 2 * _HEADER_BYTES, ring.capacity // 2), wait_ns)
        finally:
            if begun == _ring.SENT:
                ring.finish()
            if held:
                self._sending.release()

    # -- receiving ---------------------------------------------------------------------------------------------

    def receive(self, *, timeout_s: float | None = None) -> memoryview | None:
        """As the contract says."""
        lock_s = -1.0
        deadline_ns = 0
        if timeout_s is not None:
            lock_s = min(max(timeout_s, 0.0), _LONGEST_WAIT_S)
            deadline_ns = time.monotonic_ns() + int(lock_s * 1e9)
        held = False
        try:
            (held,) = map(self._receiving.acquire, (True,), (lock_s,))
            if not held:
                return None
            message = self._take()
            while message is None and timeout_s != 0:
                wait_ns = -1
                if timeout_s is not None:
                    wait_ns = max(deadline_ns - time.monotonic_ns(), 0)
                outcome = self._own_waiter().wait(wait_ns)
                message = self._take()
                if outcome == _ring.TIMED_OUT:
                    break
            return memoryview(message) if type(message) is bytes else message  # type: ignore[return-value]
        finally:
            if held:
                self._show()
                self._receiving.release()

    def receive_ready(self, limit: int) -> list[memoryview]:
        """As the contract says."""
        messages: list[memoryview] = []
        held = False
        try:
            (held,) = map(self._receiving.acquire, (False,))
            while held and len(messages) < limit:
                try:
                    message = self._take()
                except ChannelClosed as error:
                    if not messages:
                        raise
                    self._failure = error
                    break
                if message is None:
                    break
                messages.append(memoryview(message))
            return messages
        finally:
            if held:
                self._show()
                self._receiving.release()

    def _take(self) -> bytes | memoryview | None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        return self.take()

    def _own_waiter(self) -> _ring.Waiter:
        waiter = self._waiter
        if waiter is None:
            if not self._own:
                raise ValueError("a channel of a shared doorbell is read with Doorbell.waiter() and take()")
            waiter = self._waiter = self.doorbell.waiter()
        return waiter

    def _show(self) -> None:
        """Let the descriptor, if it is polled, say what there is."""
        if self._polled:
            if self._waiter is not None:
                self._waiter.leave()
            self._end.listen()

    def fileno(self) -> int:
        """A descriptor of the channel's own; it waits for a ``receive`` in progress, and is good until ``close``."""
        with self._receiving:
            if self._end.why_closed and self.doorbell.closed:
                raise ChannelClosed(self._end.why_closed)
            if not self._own:
                raise ValueError("a channel of a shared doorbell is polled by Doorbell.fileno()")
            descriptor = self.doorbell.fileno()
            self._polled = True
            self._show()
        return descriptor

    # -- both --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the conversation; wakes every thread in ``send`` or ``receive``, which raise ChannelClosed.

        In a forked child it does nothing to the parent's conversation.
        """
        self._end.close()
        if self._own:
            self.doorbell.close()

    @property
    def buffered(self) -> bool:
        return self._end.buffered

    @property
    def closed(self) -> bool:
        """True once this side closed or gave up, or took everything and saw the peer's end."""
        return bool(self._end.why_closed)


def _size(parts: Sequence[Part]) -> int:
    return sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in parts)


def _flat(part: Part) -> Part:
    return part.tobytes() if isinstance(part, memoryview) and not part.c_contiguous else part


def _owned(views: list[Part]) -> list[Part]:
    """The views with memory that nobody else can change."""
    return [view if type(view) is bytes else bytes(view) for view in views]


def _after(views: list[Part], count: int) -> list[Part]:
    """What is left after ``count`` bytes of the first view, without copying."""
    first = views[0]
    if count == (first.nbytes if isinstance(first, memoryview) else len(first)):
        return views[1:]
    return [memoryview(first).cast("B")[count:], *views[1:]] if count else views


def _too_late(sent: int) -> DeadlineExceeded:
    if sent:
        return DeadlineExceeded("the deadline passed with the message sent in part; the channel is closed")
    return DeadlineExceeded("the deadline passed before the message could be sent", outcome="not started")
