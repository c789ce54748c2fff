"""Rings as an event loop uses them: nothing here waits. The gateway's, whose room does not know transports."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from shardwright.contracts.transport import Part
from shardwright.errors import ChannelClosed
from shardwright.model.endpoint import Endpoint
from shardwright.transport import shm

_HEADER_BYTES = 8


class RingsOfLoop:
    """All rings that one loop reads. Raises ChannelClosed when the system refuses memory or descriptors."""

    def __init__(self, max_message_bytes: int) -> None:
        try:
            self._bell: Any = shm.Doorbell()
            self._descriptor: int = self._bell.fileno()
        except OSError as error:
            raise ChannelClosed(f"no rings can be had: {error}") from None
        self._transport = shm.RingTransport(max_message_bytes=max_message_bytes, doorbell=self._bell)
        self.take: Callable[[int], list[tuple[Any, bytes | memoryview | ChannelClosed]]] = self._bell.take

    def __repr__(self) -> str:
        return f"<RingsOfLoop {self._bell.channels} channels>"

    def fileno(self) -> int:
        """Readable while ``take`` may find something; it is to be called until it finds nothing."""
        return self._descriptor

    def open(self, descriptor: int, tag: object) -> RingOfLoop:
        """Messages of that channel come with that tag. The descriptor is used up. Raises ChannelClosed."""
        channel = self._transport.open(Endpoint(self._transport.name, (descriptor,)))
        channel.tag = tag
        return RingOfLoop(channel)

    def close(self) -> None:
        self._bell.close()


class RingOfLoop:
    """One channel. What it raises is ChannelClosed, when the peer or this side has closed."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._push: Callable[[Sequence[Part]], int] = channel.push
        self._sent: int = int(shm.SENT)
        self._most: int = channel.capacity - _HEADER_BYTES - 8

    def fits(self, size: int) -> bool:
        """Whether a message of so many bytes can ever be sent in one."""
        return size <= self._most

    def push(self, parts: Sequence[Part]) -> bool:
        """Send a message. False: there is no room for it now."""
        return bool(self._push(parts) == self._sent)

    def begin(self, size: int) -> None:
        """Begin a message that ``push_more`` sends piece by piece, and ``finish`` ends."""
        self._channel.begin(size)

    def push_more(self, view: Part, offset: int) -> int:
        return int(self._channel.push_more(view, offset))

    def finish(self) -> None:
        with contextlib.suppress(ChannelClosed):
            self._channel.finish()

    def close(self) -> None:
        self._channel.close()
