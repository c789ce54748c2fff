"""InprocTransport: pairs of endpoints that only this object can open."""

from __future__ import annotations

import contextlib
import threading
from socket import socket, socketpair

from shardwright.contracts.transport import Transport
from shardwright.errors import ChannelClosed
from shardwright.model.endpoint import Endpoint
from shardwright.transport.inproc._channel import InprocChannel
from shardwright.transport.inproc._queue import BoundedQueue


class InprocTransport(Transport):
    """Makes channels between threads of this process.

    Per direction at most ``capacity_bytes`` and ``capacity_messages`` are under way (one larger message passes
    alone). Endpoints are opened by the object that made them, in the process that made them.
    """

    name = "inproc"

    def __init__(
        self,
        *,
        max_message_bytes: int = 64 * 2**20,
        capacity_bytes: int = 8 * 2**20,
        capacity_messages: int = 4096,
    ) -> None:
        if max_message_bytes < 0 or capacity_bytes < 0 or capacity_messages < 1:
            raise ValueError("bounds must not be negative, and at least one message must fit")
        self.max_message_bytes = max_message_bytes
        self._capacity_bytes = capacity_bytes
        self._capacity_messages = capacity_messages
        self._lock = threading.Lock()
        self._unopened: dict[int, InprocChannel] = {}

    def __repr__(self) -> str:
        return f"InprocTransport(capacity_bytes={self._capacity_bytes}, capacity_messages={self._capacity_messages})"

    def pair(self) -> tuple[Endpoint, Endpoint]:
        first, second = socketpair()
        for end in (first, second):
            end.setblocking(False)
        there = self._queue(first, second)
        back = self._queue(second, first)
        with self._lock:
            self._unopened[first.fileno()] = self._channel(first, there, back)
            self._unopened[second.fileno()] = self._channel(second, back, there)
        return Endpoint(self.name, (first.fileno(),)), Endpoint(self.name, (second.fileno(),))

    def _queue(self, writer: socket, reader: socket) -> BoundedQueue:
        return BoundedQueue(self._capacity_bytes, self._capacity_messages, wake_from=writer, wake_to=reader)

    def _channel(self, end: socket, outgoing: BoundedQueue, incoming: BoundedQueue) -> InprocChannel:
        return InprocChannel(end, outgoing=outgoing, incoming=incoming, max_message_bytes=self.max_message_bytes)

    def open(self, endpoint: Endpoint) -> InprocChannel:
        """The channel of an endpoint. Raises ChannelClosed when this object did not make it, or gave it out before."""
        channel = None
        if endpoint.transport == self.name and len(endpoint.descriptors) == 1:
            with self._lock:
                channel = self._unopened.pop(endpoint.descriptors[0], None)
        if channel is None:
            raise ChannelClosed(
                f"not an unopened endpoint of this inproc transport: {endpoint!r}",
                remedy="open it in the process, and with the transport object, that made it",
            )
        return channel

    def dispose(self, endpoint: Endpoint) -> None:
        with contextlib.suppress(ChannelClosed):
            self.open(endpoint).close()
