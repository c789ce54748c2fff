"""BoundedQueue: one direction of a channel inside a process."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from socket import socket

from shardwright.errors import ChannelClosed, DeadlineExceeded

_LONGEST_WAIT_S = 1e6  # a longer wait waits again


class BoundedQueue:
    """Messages under way in one direction, bounded in bytes and in number.

    One message that is larger than the byte bound passes alone: an empty queue takes any message.
    """

    __slots__ = (
        "_bytes",
        "_capacity_bytes",
        "_capacity_messages",
        "_lock",
        "_messages",
        "_polled",
        "_readable",
        "_shown",
        "_wake_from",
        "_wake_to",
        "_writable",
        "reader_gone",
        "writer_gone",
    )

    def __init__(self, capacity_bytes: int, capacity_messages: int, *, wake_from: socket, wake_to: socket) -> None:
        self._capacity_bytes = capacity_bytes
        self._capacity_messages = capacity_messages
        self._messages: deque[bytearray] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._readable = threading.Condition(self._lock)
        self._writable = threading.Condition(self._lock)
        self._wake_from = wake_from  # the writer's socket: a byte sent here makes the reader's descriptor readable
        self._wake_to = wake_to
        self._polled = False
        self._shown = False
        self.reader_gone = False
        self.writer_gone = False

    def put(self, message: bytearray, deadline_ns: int, before_waiting: Callable[[], None] | None = None) -> None:
        with self._lock:
            while True:
                if self.writer_gone:
                    raise ChannelClosed("the channel was closed by this side")
                if self.reader_gone:
                    raise ChannelClosed("the peer closed the channel")
                if deadline_ns and time.monotonic_ns() >= deadline_ns:
                    raise DeadlineExceeded(
                        "the deadline passed before the message could be sent", outcome="not started"
                    )
                if self._has_room(len(message)):
                    break
                if before_waiting is not None:
                    before_waiting()
                    before_waiting = None
                    continue  # it may have taken a while
                _wait_until(self._writable, deadline_ns)
            self._messages.append(message)
            self._bytes += len(message)
            self._show()
            self._readable.notify()

    def get(self, timeout_s: float | None) -> bytearray | None:
        deadline_ns = 0 if timeout_s is None else time.monotonic_ns() + int(min(max(timeout_s, 0.0), 1e9) * 1e9)
        with self._lock:
            while True:
                if self.reader_gone:
                    raise ChannelClosed("the channel was closed by this side")
                if self._messages:
                    message = self._messages.popleft()
                    self._bytes -= len(message)
                    self._show()
                    self._writable.notify_all()
                    return message
                if self.writer_gone:
                    raise ChannelClosed("the peer closed the channel")
                if deadline_ns and time.monotonic_ns() >= deadline_ns:
                    return None
                _wait_until(self._readable, deadline_ns)

    def _has_room(self, size: int) -> bool:
        return not self._messages or (
            self._bytes + size <= self._capacity_bytes and len(self._messages) < self._capacity_messages
        )

    def poll_with_descriptor(self) -> None:
        """From now on the reader's socket is readable whenever ``get(0)`` would return or raise."""
        with self._lock:
            self._polled = True
            self._show()

    def _show(self) -> None:
        if not self._polled or bool(self._messages) is self._shown:
            return
        self._shown = not self._shown
        with contextlib.suppress(OSError):  # a side that closed shows that by the end of its stream
            if self._shown:
                self._wake_from.send(b"\0")
            else:
                self._wake_to.recv(1)

    def end_writing(self) -> None:
        with self._lock:
            self.writer_gone = True
            self._readable.notify_all()
            self._writable.notify_all()

    def end_reading(self) -> None:
        with self._lock:
            self.reader_gone = True
            self._messages.clear()
            self._bytes = 0
            self._readable.notify_all()
            self._writable.notify_all()

    @property
    def drained(self) -> bool:
        """Nothing is left, and nothing will come."""
        return self.writer_gone and not self._messages


def _wait_until(condition: threading.Condition, deadline_ns: int) -> None:
    """Wait for a notification, at most until the deadline (0: none). The caller looks again at what it waits for."""
    if deadline_ns == 0:
        condition.wait()
        return
    remaining_s = (deadline_ns - time.monotonic_ns()) / 1e9
    if remaining_s > 0:
        condition.wait(min(remaining_s, _LONGEST_WAIT_S))
