"""What the hub knows of those it reads for: channels with their links, threads that wait, workers without work."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from shardwright.contracts.transport import Channel
from shardwright.errors import ChannelClosed
from shardwright.guest._bell import Bell


class Reader(Protocol):
    """A channel and who hears of it. The owner of the role calls these; none may block or raise.

    ``arrived`` is the hub's: what was taken from the channel and not handled yet.
    """

    channel: Channel
    arrived: deque[memoryview]

    @property
    def expecting(self) -> bool:
        """Whether a message may come at any time, or is waited for."""
        ...

    def on_frame(self, frame: bytes | memoryview) -> None: ...

    def take_own(self, waiting: Any, frame: bytes | memoryview, arrived: deque[Any]) -> bool:
        """Hand over ``frame``, the first of ``arrived``, if it is the reply to that thread. An interrupt loses nothing else."""
        ...

    def on_closed(self, reason: ChannelClosed, untaken: Sequence[bytes] = ()) -> None:
        """The conversation is over, and its channel closed. ``untaken``: see ``Link.on_closed``."""


class Waits(Protocol):
    """A thread that waits for something to come; ``inbox`` is filled by ``deliver``, from any thread.

    ``leads`` says that it reads itself: then whoever fills the inbox pokes the hub. ``baton``: what it takes up before it
    goes on, if anything. ``bell`` wakes it.
    """

    thread: int
    inbox: deque[Any]
    leads: bool

    @property
    def bell(self) -> Bell: ...

    @property
    def baton(self) -> object | None: ...

    def ring(self) -> None:
        """Wake it, to look whether it is to read."""


class Worker(Protocol):
    """A thread that reads until there is work for it, and the baton that it has then."""

    found: Any
    ear: Any
    ends: bool

    @property
    def baton(self) -> object: ...
