"""SocketChannel: whole messages over one Unix stream socket.

A message on the wire is its length in bytes (u32, little-endian), then that many bytes. Nothing else is ever sent: no
greeting, no padding, no goodbye; the end of the stream between two messages is the end of the conversation.

Three choices, and why:

* The socket itself stays in blocking mode, for O_NONBLOCK belongs to the description, which others may hold too.
  What must not block says MSG_DONTWAIT, then polls. If somebody sets O_NONBLOCK all the same, nothing breaks.
* ``receive`` reads ahead: one recv fetches header, small message, and whatever came behind them (11 µs per same-core
  round trip where reading header and body apart took 13.7). A channel that is polled therefore has a ``Readiness``,
  made by the first ``fileno()``; one that is received from by a thread costs no further descriptor.
* Calls whose result must not be lost are run as ``(result,) = map(call, ...)``: CPython looks for signals
  and asynchronous exceptions after a call instruction, but not between unpacking an iterator and storing what it
  gave. So an interrupt cannot come between taking bytes from the kernel, or a lock, and knowing that we did: the
  framing survives Ctrl-C, in the middle of ``send`` as of ``receive``.
"""

from __future__ import annotations

import contextlib
import os
import select
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from socket import MSG_DONTWAIT, MSG_NOSIGNAL, SHUT_RDWR, socket

from shardwright.contracts.transport import Channel, Part
from shardwright.errors import ChannelClosed, DeadlineExceeded, MessageTooLarge, ProtocolViolation
from shardwright.transport._lane import DescriptorLane
from shardwright.transport.socket._readiness import Readiness

_HEADER = struct.Struct("<I")
_READ_AHEAD_BYTES = 32 * 2**10
_JOIN_BELOW_BYTES = 16 * 2**10  # below this, one copy is cheaper than a gathering write
_BELIEVED_BYTES = 2**20  # what a length alone may make us allocate
_GROWTH = 8  # after that: at most this many times what really came
_PARTS_PER_WRITE = 512  # IOV_MAX is 1024
_LONGEST_WAIT_S = 1e9  # what a lock still accepts
_LONGEST_POLL_S = 3600.0  # a longer wait polls again
_SEND_FLAGS = MSG_DONTWAIT | MSG_NOSIGNAL


class SocketChannel(Channel):
    """One end of a conversation over a Unix stream socket that it owns.

    Messages that ``receive`` returns are writable and nobody else refers to their memory. ``fileno`` belongs to the
    receiving side: it waits for a ``receive`` in progress, and after ``close`` it raises ChannelClosed. Whoever polls
    it takes it out of its selector before ``close``.
    """

    def __init__(self, connection: socket, *, max_message_bytes: int, lane: DescriptorLane | None = None) -> None:
        connection.settimeout(None)  # socket.setdefaulttimeout() of user code is not for us
        self._socket = connection
        self._lane = lane
        self._max_message_bytes = max_message_bytes
        self._owner = os.getpid()
        self._sending = threading.Lock()
        self._receiving = threading.Lock()
        self._letting_go = threading.RLock()
        self._in_part = False  # a message was begun
        self._why_closed = ""  # not empty: this side gave up, or saw the end
        self._released = False  # close() was called: the last one inside closes the descriptor
        self._readiness: Readiness | None = None
        self._ahead = memoryview(bytearray(_READ_AHEAD_BYTES))  # bytes [_start, _end) wait here
        self._start = 0
        self._end = 0
        self._large: bytearray | None = None  # the message in progress, when it is too large to wait in _ahead
        self._large_size = 0
        self._filled = 0

    def __repr__(self) -> str:
        state = self._why_closed or "open"
        return f"<SocketChannel descriptor={self._socket.fileno()} {state}>"

    @property
    def lane(self) -> DescriptorLane | None:
        return self._lane

    # -- sending -----------------------------------------------------------------------------------------------

    def send(
        self, parts: Sequence[Part], *, deadline_ns: int = 0, before_waiting: Callable[[], None] | None = None
    ) -> None:
        """As the contract says. Large parts are not copied; they must not change until ``send`` returns, or waits."""
        size = 0
        for part in parts:
            size += part.nbytes if isinstance(part, memoryview) else len(part)
        if size > self._max_message_bytes:
            raise MessageTooLarge(
                f"message of {size} bytes; this channel carries at most {self._max_message_bytes}",
                outcome="not started",
                remedy="send it in pieces, or pass a reference to it",
            )
        views: list[Part]
        if size < _JOIN_BELOW_BYTES:
            try:
                views = [b"".join((_HEADER.pack(size), *parts))]
            except (BufferError, TypeError):  # a part that is not contiguous
                views = [b"".join((_HEADER.pack(size), *map(_flat, parts)))]
        else:
            views = [_HEADER.pack(size), *map(_flat, parts)]
        wait_s = -1.0
        if deadline_ns:
            wait_s = min((deadline_ns - time.monotonic_ns()) / 1e9, _LONGEST_WAIT_S)
            if wait_s <= 0:
                raise _too_late(0)
        held = False
        try:
            if before_waiting is not None:
                (held,) = map(self._sending.acquire, (False,))
                if not held:
                    views = _owned(views)
                    before_waiting()
                    before_waiting = None
            if not held:
                (held,) = map(self._sending.acquire, (True,), (wait_s,))
            if not held:
                raise _too_late(0)
            self._write(views, size + _HEADER.size, deadline_ns, before_waiting)
        finally:
            if held:
                self._sending.release()
            if self._released:
                self._let_go()

    def _write(
        self, views: list[Part], total: int, deadline_ns: int, before_waiting: Callable[[], None] | None
    ) -> None:
        """Write everything, or nothing, or end the channel."""
        written = 0
        peer_gone = False
        # An exception of a signal handler that strikes at a jump back to the loop's head is not seen by ``finally`` in some
        # versions of CPython (3.11.7): then this stays set, and the next message is not written behind half of this one.
        if self._in_part:
            self._abort("a message could be sent in part only")
        try:
            while True:
                if self._why_closed:
                    raise ChannelClosed(self._why_closed)
                before = written
                self._in_part = True
                try:
                    if len(views) == 1:  # the usual case, and send is cheaper than sendmsg
                        (count,) = map(self._socket.send, views, (_SEND_FLAGS,))
                    else:
                        (count,) = map(self._socket.sendmsg, (views[:_PARTS_PER_WRITE],), ((),), (_SEND_FLAGS,))
                    written += count
                except BlockingIOError:
                    if before_waiting is not None:
                        views = _owned(views)
                        before_waiting()
                        before_waiting = None
                        continue
                    if not self._wait(select.POLLOUT, deadline_ns):
                        raise _too_late(written) from None
                    continue
                if written == total:
                    return
                views = _after(views, written - before)
        except ConnectionError:
            # What the peer sent before it went can still be received: only our half is over, and the kernel says so to
            # whoever sends again.
            peer_gone = True
            raise ChannelClosed(self._why_closed or "the peer closed the channel, or is gone") from None
        except DeadlineExceeded:
            raise
        except OSError as error:
            self._abort(f"sending failed: {error}")
            raise ChannelClosed(self._why_closed) from error
        finally:
            if 0 < written < total and not peer_gone:
                self._abort("a message could be sent in part only")
            self._in_part = False

    # -- receiving ---------------------------------------------------------------------------------------------

    def receive(self, *, timeout_s: float | None = None) -> memoryview | None:
        """As the contract says. The memory is writable and the caller's own."""
        deadline_ns = 0
        if timeout_s is None:
            timeout_s = -1.0
        else:
            timeout_s = min(max(timeout_s, 0.0), _LONGEST_WAIT_S)
            deadline_ns = time.monotonic_ns() + int(timeout_s * 1e9)
        held = False
        try:
            (held,) = map(self._receiving.acquire, (True,), (timeout_s,))
            if not held:
                return None
            while True:
                if self._why_closed:
                    raise ChannelClosed(self._why_closed)
                if self._end or self._large is not None:
                    message = self._take()
                    if message is not None:
                        return message
                if not self._read(deadline_ns):
                    return None
        finally:
            if held:
                if self._readiness is not None:
                    self._readiness.show(self._is_buffered())
                self._receiving.release()
            if self._released:
                self._let_go()

    def receive_ready(self, limit: int) -> list[memoryview]:
        """As the contract says. One question to the kernel, and one word to those who poll, for all of them."""
        messages: list[memoryview] = []
        held = False
        try:
            (held,) = map(self._receiving.acquire, (False,))
            if not held:
                return messages
            if self._why_closed:
                raise ChannelClosed(self._why_closed)
            if not self._is_buffered():
                self._make_room()
                self._read(time.monotonic_ns())
                if self._why_closed:
                    raise ChannelClosed(self._why_closed)
            while self._is_buffered():
                if messages and (len(messages) >= limit or self._is_too_large()):
                    break
                message = self._take()
                if message is None:
                    break
                messages.append(message)
            return messages
        finally:
            if held:
                if self._readiness is not None:
                    self._readiness.show(self._is_buffered())
                self._receiving.release()
            if self._released:
                self._let_go()

    keeps_on_interrupt = True

    def take_ready(self, into: deque[memoryview]) -> None:
        """As the contract says. It leaves no whole message in our buffer, so that the socket alone is to be polled."""
        held = False
        try:
            (held,) = map(self._receiving.acquire, (False,))
            if held:
                self._take_all(into)
        finally:
            if held:
                self._receiving.release()
            if self._released:
                self._let_go()

    def _take_all(self, into: deque[memoryview]) -> None:
        before = len(into)
        while True:
            while self._move(into):
                pass
            if len(into) > before:
                return
            if self._why_closed:
                raise ChannelClosed(self._why_closed)
            if not self._read(1):  # a deadline that has passed
                return

    def _move(self, into: deque[memoryview]) -> bool:
        """Move the next message to ``into`` if all of it is here.

        No signal is looked for between taking it out of our buffer and the call that appends it: an interrupt finds it
        in one of the two places.
        """
        append = into.append
        if self._large is None and (have := self._end - self._start - _HEADER.size) >= 0:
            (size,) = _HEADER.unpack_from(self._ahead, self._start)
            if have >= size:
                body = self._start + _HEADER.size
                end = body + size
                message = memoryview(bytearray(self._ahead[body:end]))
                if end == self._end:
                    self._start = self._end = 0
                    append(message)
                else:
                    self._start = end
                    append(message)
                return True
            if into and size > self._max_message_bytes:  # those before it are heard first
                self._abort("the peer announced a message larger than this channel carries")
                return False
        elif self._large is not None and self._filled == self._large_size:
            message = memoryview(self._large)
            self._large = None
            append(message)
            return True
        self._take()  # makes room for the rest of it
        return False

    def arrivals_fileno(self) -> int:
        with self._receiving:
            if self._released:
                raise ChannelClosed(self._why_closed)
            return self._socket.fileno()

    def _make_room(self) -> None:
        """For what comes next, where no whole message is here."""
        message = self._take()
        assert message is None

    def _is_too_large(self) -> bool:
        """Whether the next message is one of which ``receive`` complains."""
        have = self._end - self._start
        if self._large is not None or have < _HEADER.size:
            return False
        return bool(_HEADER.unpack_from(self._ahead, self._start)[0] > self._max_message_bytes)

    def _take(self) -> memoryview | None:
        """The next message if all of it is here; else make room for the rest of it."""
        large = self._large
        if large is not None:
            if self._filled == self._large_size:
                self._large = None
                return memoryview(large)
            if self._filled == len(large):
                larger = bytearray(min(self._large_size, _GROWTH * len(large)))
                larger[: self._filled] = large
                self._large = larger
            return None
        start, end = self._start, self._end
        ahead = self._ahead
        have = end - start - _HEADER.size
        if have >= 0:
            (size,) = _HEADER.unpack_from(ahead, start)
            if have >= size:
                body = start + _HEADER.size
                message = memoryview(bytearray(ahead[body : body + size]))
                if body + size == end:
                    self._start = self._end = 0
                else:
                    self._start = body + size
                return message
            if size > self._max_message_bytes:
                self._abort("the peer announced a message larger than this channel carries")
                raise ProtocolViolation(
                    f"the peer announced a message of {size} bytes; at most {self._max_message_bytes} are allowed"
                )
            if size + _HEADER.size > _READ_AHEAD_BYTES:
                large = bytearray(min(size, _BELIEVED_BYTES))
                large[:have] = ahead[start + _HEADER.size : end]
                self._large, self._large_size, self._filled = large, size, have
                self._start = self._end = 0
                return None
        if start:
            ahead[: end - start] = ahead[start:end]
            self._start, self._end = 0, end - start
        return None

    def _read(self, deadline_ns: int) -> bool:
        """Take more bytes from the kernel; False when the deadline passed first."""
        if self._large is not None:
            room = memoryview(self._large)[self._filled :]
        else:
            room = self._ahead[self._end :] if self._end else self._ahead
        flags = MSG_DONTWAIT if deadline_ns else 0
        while True:
            try:
                if self._large is None:
                    (count,) = map(self._socket.recv_into, (room,), (0,), (flags,))
                    self._end += count
                else:
                    (count,) = map(self._socket.recv_into, (room,), (0,), (flags,))
                    self._filled += count
            except BlockingIOError:
                if not self._wait(select.POLLIN, deadline_ns):
                    return False
                continue
            except ConnectionError:
                count = 0
            except OSError as error:
                self._abort(f"receiving failed: {error}")
                return True
            if count == 0:
                partly = self._large is not None or self._end > self._start
                self._abort("the peer ended within a message" if partly else "the peer closed the channel, or is gone")
            return True

    def _is_buffered(self) -> bool:
        """Whether ``receive`` would return or raise without asking the kernel."""
        if self._large is not None:
            return self._filled == self._large_size
        have = self._end - self._start - _HEADER.size
        if have < 0:
            return False
        (size,) = _HEADER.unpack_from(self._ahead, self._start)
        return bool(have >= size or size > self._max_message_bytes)

    def fileno(self) -> int:
        with self._receiving:
            if self._released:
                raise ChannelClosed(self._why_closed)
            if self._readiness is None:
                self._readiness = Readiness(self._socket.fileno())
                self._readiness.show(self._is_buffered())
            descriptor = self._readiness.fileno()
        if self._was_released():
            raise ChannelClosed(self._why_closed)
        return descriptor

    def _was_released(self) -> bool:
        """Whether a ``close`` came while we were inside; then it left the descriptor to us."""
        if self._released:
            self._let_go()
        return self._released

    # -- both --------------------------------------------------------------------------------------------------

    def _wait(self, events: int, deadline_ns: int) -> bool:
        """Poll the socket; False when the deadline (0: none) passed first. True may be early: try again."""
        remaining_ns = deadline_ns - time.monotonic_ns()
        if deadline_ns and remaining_ns <= 0:
            return False
        poll = select.poll()
        poll.register(self._socket.fileno(), events)
        if deadline_ns == 0:
            poll.poll()
            return True
        # poll() rounds up to milliseconds: short waits end late rather than spin.
        poll.poll(min(remaining_ns / 1e6, _LONGEST_POLL_S * 1e3))
        return True

    def _abort(self, why: str) -> None:
        """End the conversation on both sides, wake whoever waits, keep the descriptor."""
        if not self._why_closed:
            self._why_closed = why
        with contextlib.suppress(OSError):
            self._socket.shutdown(SHUT_RDWR)

    def close(self) -> None:
        """End the conversation; wakes every thread in ``send`` or ``receive``, which raise ChannelClosed.

        In a forked child it gives up the child's copy of the descriptor and leaves the parent's conversation alone.
        """
        if self._released:
            return
        if os.getpid() == self._owner:
            self._abort("the channel was closed by this side")
        elif not self._why_closed:
            self._why_closed = "the channel was closed by this side"
        self._released = True
        self._let_go()

    def _let_go(self) -> None:
        """Close the descriptor, unless a thread is still inside: its number must not be reused under that thread.

        Whoever comes out last calls this again. The outer lock makes "both are free" one question.
        """
        with self._letting_go:
            if not self._sending.acquire(blocking=False):
                return
            try:
                if not self._receiving.acquire(blocking=False):
                    return
                try:
                    if self._readiness is not None:
                        self._readiness.close()
                        self._readiness = None
                    if self._lane is not None:
                        self._lane.close()
                    self._socket.close()
                finally:
                    self._receiving.release()
            finally:
                self._sending.release()

    @property
    def buffered(self) -> bool:
        return self._end > 0 or self._large is not None

    @property
    def closed(self) -> bool:
        """True once this side closed or gave up, or saw the peer's end."""
        return bool(self._why_closed)


def _flat(part: Part) -> Part:
    """The part as contiguous bytes, so that its length is its size."""
    if isinstance(part, memoryview) and (part.format != "B" or part.ndim != 1 or not part.c_contiguous):
        return part.cast("B") if part.c_contiguous and part.nbytes else part.tobytes()
    return part


def _owned(views: list[Part]) -> list[Part]:
    """The views with memory that nobody else can change."""
    return [view if type(view) is bytes else bytes(view) for view in views]


def _after(views: list[Part], written: int) -> list[Part]:
    """What is left of the views after the first ``written`` bytes, without copying."""
    for index, view in enumerate(views):
        if written < len(view):
            return [memoryview(view)[written:], *views[index + 1 :]]
        written -= len(view)
    return []


def _too_late(written: int) -> DeadlineExceeded:
    if written:
        return DeadlineExceeded("the deadline passed with the message sent in part; the channel is closed")
    return DeadlineExceeded("the deadline passed before the message could be sent", outcome="not started")
