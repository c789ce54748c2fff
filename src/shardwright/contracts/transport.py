"""Transport and Channel: how whole messages get from one shard to another.

``shardwright.testing.check_transport`` runs one conformance suite over every implementation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

from shardwright.errors import ChannelClosed
from shardwright.model.endpoint import Endpoint

Part: TypeAlias = bytes | bytearray | memoryview
_MANY = 64


class Lane(ABC):
    """Where descriptors travel beside the messages of a channel, each known by its serial number."""

    @abstractmethod
    def offer(self, descriptor: int) -> int | None:
        """Send a duplicate; the serial number that the message must name, or None: send the bytes themselves instead.

        Never waits. The message must be sent after it.
        """

    @abstractmethod
    def claim(self, serial: int) -> int:
        """The descriptor that a received message names; the caller's to close.

        Raises ProtocolViolation when it did not come.
        """


class Channel(ABC):
    """One end of a conversation: whole messages, in order, both ways, at most once.

    ``send`` may be called from any thread; ``receive`` from one thread at a time. Closing is idempotent and wakes
    threads that wait in either. Messages are opaque here; ``transport.envelope`` gives them meaning.
    """

    @abstractmethod
    def send(
        self, parts: Sequence[Part], *, deadline_ns: int = 0, before_waiting: Callable[[], None] | None = None
    ) -> None:
        """Send one message, the concatenation of ``parts``; returns when the transport has taken it over.

        Blocks while the peer is slow, never buffering without bound. Raises MessageTooLarge (nothing was sent, the
        channel stays good), DeadlineExceeded (nothing was sent, or the channel is closed because a part was),
        ChannelClosed.

        ``before_waiting`` is called at most once, when the message must wait for the peer or for another sender; from
        then on ``parts`` may change, for what was not sent yet has been copied. It must not block. What it raises ends
        the send as a deadline would (nothing was sent, or the channel is closed because a part was).
        """

    @abstractmethod
    def receive(self, *, timeout_s: float | None = None) -> memoryview | None:
        """The next message, owned by the caller, or None when ``timeout_s`` passed first (0 polls).

        Raises ChannelClosed when the peer closed or died and everything it sent was received; ProtocolViolation
        (and closes) when its framing lies.
        """

    def receive_ready(self, limit: int) -> list[memoryview]:
        """At most ``limit`` messages that are here, none if there are none; what ``receive`` raises, once all were returned."""
        messages: list[memoryview] = []
        while len(messages) < limit and (not messages or self.buffered):
            try:
                message = self.receive(timeout_s=0)
            except ChannelClosed:
                if not messages:
                    raise
                break  # it is raised again, by the next call
            if message is None:
                break
            messages.append(message)
        return messages

    keeps_on_interrupt: bool = False
    """Whether an exception of a signal handler that strikes in ``take_ready`` loses no message."""

    def take_ready(self, into: deque[memoryview]) -> None:
        """Append the messages that are here to ``into``, a number that is bounded; what ``receive`` raises, once all were.

        Where it raises, what was appended came before.
        """
        into.extend(self.receive_ready(_MANY))

    def arrivals_fileno(self) -> int:
        """A descriptor that polls readable whenever ``take_ready`` would append or raise; for a reader that uses nothing
        but that."""
        return self.fileno()

    @abstractmethod
    def fileno(self) -> int:
        """A descriptor that polls readable whenever ``receive(timeout_s=0)`` would return a message or raise."""

    @abstractmethod
    def close(self) -> None: ...

    @property
    def lane(self) -> Lane | None:
        """Where descriptors travel beside the messages; None on channels that carry bytes alone."""
        return None

    @property
    def buffered(self) -> bool:
        """Whether ``receive`` may find more without asking the kernel. True when in doubt."""
        return True

    @property
    @abstractmethod
    def closed(self) -> bool: ...


class Transport(ABC):
    """The maker of channels."""

    name: str

    @abstractmethod
    def pair(self) -> tuple[Endpoint, Endpoint]:
        """Two connected endpoints, each to be handed to the process that will open it (or to be disposed of)."""

    @abstractmethod
    def open(self, endpoint: Endpoint) -> Channel:
        """The channel of an endpoint that this process now holds. Uses the endpoint up, also on failure."""

    @abstractmethod
    def dispose(self, endpoint: Endpoint) -> None:
        """Give up an endpoint that was never opened; its peer sees the channel closed."""
