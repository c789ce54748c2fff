"""A Link is one conversation over one channel: calls that go out, and calls that come in.

Outgoing calls wait in ``_pending`` under their call id until a reply takes them out, or the channel closes, or the
caller gives up: exactly one of the three removes a ticket, so a ticket is delivered once. Replies to calls that nobody
waits for any more are dropped. Ids are never reused on a link.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Protocol

from shardwright.contracts.transport import Channel
from shardwright.errors import ChannelClosed, ProtocolViolation
from shardwright.guest._hub import Hub
from shardwright.model.endpoint import Peer
from shardwright.model.envelope import Envelope, Kind, PayloadCodec
from shardwright.transport import CallCodec, PickleCodec, pack, unpack

_REPLIES = frozenset({Kind.RESULT, Kind.ERROR})
REPLY_PATIENCE_NS = 5_000_000_000  # a caller that does not take its reply for so long is cut off


class Ticket(Protocol):
    """Where the outcome of one outgoing call goes. Called on the hub's thread (or the sender's, when closed)."""

    def deliver(self, outcome: Envelope | ChannelClosed) -> None: ...


class Incoming(Protocol):
    """Who answers: called on the hub's thread for every message that is not a reply."""

    def on_message(self, link: Link, envelope: Envelope) -> None: ...

    def on_link_closed(self, link: Link) -> None: ...


class Link:
    """One conversation with ``peer``; ``codec`` speaks what this edge permits.

    ``enter`` is called with the link before its first message can be heard.
    """

    def __init__(
        self,
        channel: Channel,
        peer: Peer,
        codec: CallCodec,
        hub: Hub,
        incoming: Incoming | None,
        enter: Callable[[Link], None] | None = None,
    ) -> None:
        self.channel = channel
        self.peer = peer
        self.codec = codec
        self.codec_id = PayloadCodec.PICKLE5 if isinstance(codec, PickleCodec) else PayloadCodec.TAGGED
        self._hub = hub
        self._incoming = incoming
        self._pending: dict[int, Ticket] = {}
        self._ids = itertools.count(1)
        self._mutex = threading.Lock()
        self._lost: ChannelClosed | None = None
        if enter is not None:
            enter(self)
        hub.add(self)

    def __repr__(self) -> str:
        state = "closed" if self._lost else f"{len(self._pending)} in flight"
        return f"<Link to {self.peer.shard}, {state}>"

    @property
    def closed(self) -> bool:
        return self._lost is not None

    @property
    def in_flight(self) -> int:
        """Outgoing calls that wait for a reply."""
        return len(self._pending)

    def next_id(self) -> int:
        return next(self._ids)

    def begin(self, envelope: Envelope, ticket: Ticket) -> None:
        """Send a call; its outcome goes to ``ticket``. Raises what Channel.send raises: then nothing will come."""
        with self._mutex:
            if self._lost is not None:
                raise ChannelClosed(f"{self.peer.shard} is gone")
            self._pending[envelope.call_id] = ticket
        try:
            self.channel.send(pack(envelope), deadline_ns=envelope.deadline_ns)
        except BaseException as error:
            with self._mutex:
                mine = self._pending.pop(envelope.call_id, None)
            if mine is None and isinstance(error, ChannelClosed):
                return  # the hub saw the end first and has told the ticket
            raise

    def abandon(self, call_id: int) -> bool:
        """The caller no longer waits; tells the peer. False when the outcome had already been delivered."""
        with self._mutex:
            if self._pending.pop(call_id, None) is None:
                return False
        self.post(Envelope(kind=Kind.CANCEL, call_id=call_id))
        return True

    def post(self, envelope: Envelope) -> None:
        """Send a message that has no reply; a peer that is gone, or takes nothing for seconds, is cut off."""
        try:
            self.channel.send(pack(envelope), deadline_ns=time.monotonic_ns() + REPLY_PATIENCE_NS)
        except ChannelClosed:
            pass
        except TimeoutError:
            self.channel.close()

    def close(self) -> None:
        """End the conversation; pending calls get ChannelClosed."""
        self._hub.remove(self)
        self.channel.close()
        self.on_closed(ChannelClosed(f"the link to {self.peer.shard} was closed"))

    # -- the hub's thread --------------------------------------------------------------------------------------

    def on_frame(self, frame: memoryview) -> None:
        try:
            envelope = unpack(frame)
        except ProtocolViolation as violation:
            self._hub.remove(self)
            self.channel.close()
            self.on_closed(violation)
            return
        if envelope.kind in _REPLIES:
            with self._mutex:
                ticket = self._pending.pop(envelope.call_id, None)
            if ticket is not None:
                ticket.deliver(envelope)
        elif self._incoming is not None:
            self._incoming.on_message(self, envelope)

    def on_closed(self, reason: ChannelClosed) -> None:
        with self._mutex:
            if self._lost is not None:
                return
            self._lost = reason
            pending, self._pending = self._pending, {}
        self.channel.close()
        if self._incoming is not None:
            self._incoming.on_link_closed(self)  # first: whoever hears of the loss must find it entered
        for ticket in pending.values():
            ticket.deliver(reason)
