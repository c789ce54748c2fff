"""InprocChannel: one end of a conversation inside a process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from socket import socket

from shardwright.contracts.transport import Channel, Part
from shardwright.errors import ChannelClosed, MessageTooLarge
from shardwright.transport.inproc._queue import BoundedQueue


class InprocChannel(Channel):
    """One end of a conversation with another thread. What is sent is copied, so both sides share nothing."""

    def __init__(
        self, connection: socket, *, outgoing: BoundedQueue, incoming: BoundedQueue, max_message_bytes: int
    ) -> None:
        self._socket = connection  # carries wake-ups only; its end tells a polling peer that we closed
        self._outgoing = outgoing
        self._incoming = incoming
        self._max_message_bytes = max_message_bytes
        self._closed = False

    def __repr__(self) -> str:
        return f"<InprocChannel {'closed' if self.closed else 'open'}>"

    def send(
        self, parts: Sequence[Part], *, deadline_ns: int = 0, before_waiting: Callable[[], None] | None = None
    ) -> None:
        size = sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in parts)
        if size > self._max_message_bytes:
            raise MessageTooLarge(
                f"message of {size} bytes; this channel carries at most {self._max_message_bytes}",
                outcome="not started",
                remedy="send it in pieces, or pass a reference to it",
            )
        try:
            message = bytearray().join(parts)
        except (BufferError, TypeError):  # a part that is not contiguous
            message = bytearray().join(bytes(part) for part in parts)
        self._outgoing.put(message, deadline_ns, before_waiting)

    def receive(self, *, timeout_s: float | None = None) -> memoryview | None:
        message = self._incoming.get(timeout_s)
        return None if message is None else memoryview(message)

    def fileno(self) -> int:
        if self._closed:
            raise ChannelClosed("the channel was closed by this side")
        self._incoming.poll_with_descriptor()
        return self._socket.fileno()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._incoming.end_reading()
        self._outgoing.end_writing()
        self._socket.close()

    @property
    def closed(self) -> bool:
        """True once this side closed, or the peer did and everything it sent was received."""
        return self._closed or self._incoming.drained
