"""Two ends of real conversations, without processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import pytest

from shardwright.contracts.transport import Channel
from shardwright.guest import Hub, Link
from shardwright.model.endpoint import Peer
from shardwright.model.envelope import Envelope
from shardwright.model.ids import ComponentName, ShardId
from shardwright.transport import ClassTable, TaggedCodec
from shardwright.transport.socket import SocketTransport


@dataclass
class Heard:
    """What a link says comes in."""

    messages: SimpleQueue[Any] = field(default_factory=SimpleQueue)
    closed: threading.Event = field(default_factory=threading.Event)
    on: Callable[[Link, Envelope], None] | None = None

    def on_message(self, link: Link, envelope: Envelope) -> None:
        if self.on is not None:
            self.on(link, envelope)
        self.messages.put(envelope)

    def on_link_closed(self, link: Link) -> None:
        self.closed.set()


@dataclass
class Wires:
    """Makes links with their far ends, and closes everything."""

    transport: SocketTransport
    hub: Hub
    made: list[Any] = field(default_factory=list)

    def link(self, shard: str = "far-00000001", heard: Heard | None = None) -> tuple[Link, Channel]:
        """A link that this side reads, and the bare channel of the other side."""
        ours, theirs = self.transport.pair()
        far = self.transport.open(theirs)
        codec = TaggedCodec(ClassTable((), lambda name: object))
        peer = Peer(ComponentName(shard.rpartition("-")[0]), ShardId(shard))
        link = Link(self.transport.open(ours), peer, codec, self.hub, heard or Heard())
        self.made += [link, far]
        return link, far


@pytest.fixture
def wires() -> Iterator[Wires]:
    hub = Hub("test-hub")
    found = Wires(SocketTransport(), hub)
    yield found
    for each in found.made:
        each.close()
    hub.close()
