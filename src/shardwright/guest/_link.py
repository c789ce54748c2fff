"""A Link is one conversation over one channel: calls that go out, and calls that come in.

Outgoing calls wait in ``_pending`` under their call id until a reply takes them out, or the channel closes, or the
caller gives up: exactly one of the three removes a ticket, so a ticket is delivered once. Replies to calls that nobody
waits for any more are dropped. Ids are never reused on a link.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from shardwright.contracts.transport import Channel
from shardwright.errors import ChannelClosed, DeadlineExceeded, InternalError, ProtocolViolation
from shardwright.guest._chains import Patience
from shardwright.guest._hub import Hub
from shardwright.guest._lines import line_of
from shardwright.model.endpoint import Peer
from shardwright.model.envelope import Envelope, Kind, PayloadCodec
from shardwright.transport import CallCodec, PickleCodec, pack, unpack

if TYPE_CHECKING:
    from shardwright.guest._ring_hub import RingHub

_REPLIES = frozenset({Kind.RESULT, Kind.ERROR})
REPLY_PATIENCE_NS = 5_000_000_000  # a caller that does not take its reply for so long is cut off
MAX_LEFT = 1024  # answers that may wait for a writing thread; a caller that lets more wait is cut off


class Retired(ChannelClosed):
    """The shard was replaced: this call was not sent, and another link is to be asked for."""


class Untaken(ChannelClosed):
    """The shard ended before it took this call from the channel: it was not begun, and may go to another."""


class Ticket(Protocol):
    """Where the outcome of one outgoing call goes. Called on the hub's thread (or the sender's, when closed)."""

    def deliver(self, outcome: Envelope | ChannelClosed) -> None: ...


class Incoming(Protocol):
    """Who answers: called on the hub's thread for every message that is not a reply."""

    def on_message(self, link: Link, envelope: Envelope) -> None: ...

    def on_link_closed(self, link: Link) -> None: ...


class Parking(Protocol):
    """The baton, which is put down while a send waits."""

    def holds(self) -> bool: ...

    def release(self) -> None: ...

    def acquire(self) -> None: ...


class Link:
    """One conversation with ``peer``; ``codec`` speaks what this edge permits.

    ``enter`` is called with the link before its first message can be heard. ``parking`` may be set there: then a send
    that must wait for the peer puts the sending thread's baton down meanwhile. A send on the hub's own thread never
    waits.
    """

    def __init__(
        self,
        channel: Channel,
        peer: Peer,
        codec: CallCodec,
        hub: Hub | RingHub,
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
        self._mutex = threading.Lock()
        self._lost: ChannelClosed | None = None
        self._retired = False
        self._left: deque[Envelope] | None = None  # what the hub's thread leaves to a writing thread, if there is one
        self.parking: Parking | None = None
        self.arrived: deque[memoryview] = deque()
        self.patience = Patience()
        self.permitted: set[int] = set()  # entry points that the peer was found to be permitted
        self.streams = 0  # generators of the peer that are iterated over here
        self.hears_calls = True  # whether the peer may send anything but replies
        self.line = line_of(self)
        self.next_id: Callable[[], int] = itertools.count(1).__next__ if self.line is None else self.line.next_id
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
        return len(self._pending) if self.line is None else len(self._pending) + self.line.in_flight

    @property
    def expecting(self) -> bool:
        """Whether a message may come at any time, or is waited for."""
        return self.hears_calls or bool(self.in_flight)

    @property
    def hub(self) -> Hub | RingHub:
        """Who reads the channel."""
        return self._hub

    def begin(self, envelope: Envelope, ticket: Ticket) -> None:
        """Send a call; its outcome goes to ``ticket``. Raises what Channel.send raises: then nothing will come."""
        with self._mutex:
            if self._retired and envelope.kind is not Kind.DATA:  # what is open goes on
                raise Retired(f"{self.peer.shard} is replaced")
            if self._lost is not None:
                raise ChannelClosed(f"{self.peer.shard} is gone")
            self._pending[envelope.call_id] = ticket
        try:
            self._send(envelope, envelope.deadline_ns, getattr(ticket, "step_back", None))
        except BaseException as error:
            with self._mutex:
                mine = self._pending.pop(envelope.call_id, None)
            self._close_retired()
            if mine is None and isinstance(error, ChannelClosed):
                return  # the hub saw the end first and has told the ticket
            raise

    def abandon(self, call_id: int) -> bool:
        """The caller no longer waits; tells the peer. False when the outcome had already been delivered."""
        with self._mutex:
            if self._pending.pop(call_id, None) is None:
                return False
        self.post(Envelope(kind=Kind.CANCEL, call_id=call_id))
        self._close_retired()
        return True

    def cancel(self, ticket: object) -> None:
        """Tell the peer that the call of that ticket is no longer wanted; its outcome is waited for all the same."""
        with self._mutex:
            found = next((call_id for call_id, each in self._pending.items() if each is ticket), None)
        if found is not None:
            self.post(Envelope(kind=Kind.CANCEL, call_id=found))

    def retire(self) -> None:
        """Begin no further call; close once those in flight have their outcome."""
        with self._mutex:
            self._retired = True
            if self.line is not None:
                self.line.open = False
        self._close_retired()

    def stream_begins(self) -> None:
        """One generator of the peer more; the link stays open for it, though it be retired."""
        with self._mutex:
            self.streams += 1

    def stream_ended(self) -> None:
        """One generator of the peer less."""
        with self._mutex:
            self.streams -= 1
        self._close_retired()

    def _close_retired(self) -> None:
        if self._retired and not self.in_flight and not self.streams:  # nothing is added to it any more
            self.close()

    def post(self, envelope: Envelope) -> None:
        """Send a message that has no reply; a peer that is gone, or takes nothing for seconds, is cut off.

        Raises MessageTooLarge. On the hub's thread it does not wait: what cannot be sent at once is sent by a thread of
        its own.
        """
        if self._lost is not None:
            return
        if self._hub.on_thread():
            self._post_at_once(envelope)
            return
        try:
            self._send(envelope, time.monotonic_ns() + REPLY_PATIENCE_NS)
        except ChannelClosed:
            pass
        except DeadlineExceeded:
            self._end(ChannelClosed(f"{self.peer.shard} did not take what it asked for"))

    def close(self) -> None:
        """End the conversation; pending calls get ChannelClosed."""
        self._end(ChannelClosed(f"the link to {self.peer.shard} was closed"))

    def goes_on(self, call_id: int, ticket: Ticket) -> list[Any]:
        """A call that went the quick way has that ticket from now on; what came for it already, the outcome last."""
        assert self.line is not None
        with self._mutex:
            came = self.line.hand_over(call_id, self._pending, ticket)
            if came is None:
                raise InternalError(f"no call {call_id} is in flight to {self.peer.shard}")
            if self._lost is not None and self._pending.pop(call_id, None) is not None:
                came.append(self._lost)  # nobody is told by the line any more
        return [self.read(item) if isinstance(item, (bytes, memoryview)) else item for item in came]

    def read(self, message: bytes | memoryview) -> Envelope | ProtocolViolation:
        """What a message of the peer says. One that says nothing ends the conversation, and is its end."""
        try:
            return unpack(message)
        except ProtocolViolation as violation:
            self.break_off(violation)
            return violation

    def codec_of(self, spoken: PayloadCodec) -> CallCodec | None:
        """What reads a message of that codec, if this edge permits it."""
        if spoken is self.codec_id:
            return self.codec
        return self.codec.plain if spoken is PayloadCodec.TAGGED and isinstance(self.codec, PickleCodec) else None

    # -- inside ------------------------------------------------------------------------------------------------

    def _send(self, envelope: Envelope, deadline_ns: int, step_back: Callable[[], None] | None = None) -> None:
        """``step_back`` is called when the send must wait."""
        parking = self.parking
        if parking is None or not parking.holds():
            self.channel.send(pack(envelope), deadline_ns=deadline_ns, before_waiting=step_back)
            return
        let_go = parking.release

        def before_waiting() -> None:
            if step_back is not None:
                step_back()
            let_go()

        try:
            self.channel.send(pack(envelope), deadline_ns=deadline_ns, before_waiting=before_waiting)
        finally:
            if not parking.holds():
                parking.acquire()

    def _post_at_once(self, envelope: Envelope) -> None:
        with self._mutex:
            left = self._left
            if left is not None:
                left.append(envelope)
        if left is None:
            try:
                self.channel.send(pack(envelope), before_waiting=_would_wait)
                return
            except ChannelClosed:
                return
            except DeadlineExceeded:
                self._left = left = deque((envelope,))
            writer = threading.Thread(target=self._write_left, name=f"to-{self.peer.shard}", daemon=True)
            try:
                writer.start()
            except RuntimeError:  # the limit of processes is reached
                left = None
        if left is None or len(left) > MAX_LEFT:
            self._end(ChannelClosed(f"{self.peer.shard} does not take what it asked for"))

    def _write_left(self) -> None:
        """Ends when nothing is left; only the hub's thread begins it, so there is one at a time."""
        while True:
            with self._mutex:
                if not self._left or self._lost is not None:
                    self._left = None
                    return
                envelope = self._left.popleft()
            self.post(envelope)

    def break_off(self, reason: ChannelClosed) -> None:
        """The peer broke the protocol."""
        self._end(reason)

    def _end(self, reason: ChannelClosed) -> None:
        """Any thread. The hub closes the channel, for it knows the descriptor."""
        self._hub.retire(self)
        self.on_closed(reason)

    # -- the hub's thread --------------------------------------------------------------------------------------

    def on_frame(self, frame: bytes | memoryview) -> None:
        if self.line is not None and self.line.reply(frame):
            return
        try:
            envelope = unpack(frame)
        except ProtocolViolation as violation:
            self._end(violation)
            return
        if envelope.kind in _REPLIES:
            with self._mutex:
                ticket = self._pending.pop(envelope.call_id, None)
            if ticket is not None:
                ticket.deliver(envelope)
            self._close_retired()
        elif self._incoming is not None:
            self._incoming.on_message(self, envelope)

    def take_own(self, waiting: Any, frame: bytes | memoryview, arrived: deque[Any]) -> bool:
        """As ``Reader``: the first message that has arrived, if it is the reply that ``waiting`` waits for."""
        inbox = waiting.inbox
        try:
            envelope = unpack(frame)
        except ProtocolViolation:
            return False
        if envelope.kind not in _REPLIES or self._pending.get(envelope.call_id) is not waiting:
            return False
        with self._mutex:
            self._pending.pop(envelope.call_id, None)
        inbox.append(envelope)
        arrived.popleft()
        return not self._retired  # to close it is for another

    def on_closed(self, reason: ChannelClosed, untaken: Sequence[bytes] = ()) -> None:
        """``untaken``: how messages begin that the peer, which is gone, never took from the channel."""
        never = Untaken(f"{self.peer.shard} was gone before it took the call")
        others = {number: never for head in untaken if (number := _number_of_call(head)) is not None}
        with self._mutex:
            if self._lost is not None:
                return
            self._lost = reason
            if self.line is not None:
                self.line.open = self.line.heard = False
            pending, self._pending = self._pending, {}
        if self._incoming is not None:
            self._incoming.on_link_closed(self)  # first: whoever hears of the loss must find it entered
        for number, ticket in pending.items():
            ticket.deliver(others.get(number, reason))
        if self.line is not None:
            self.line.end(reason, others)


def _number_of_call(head: bytes) -> int | None:
    """The number of the call whose message begins like that; None where it is another kind of message."""
    if len(head) < 16 or head[:3] != b"SW\x01" or head[3] != Kind.CALL:
        return None
    return int.from_bytes(head[8:16], "little")


def _would_wait() -> None:
    raise DeadlineExceeded("the message would have to wait", outcome="not started")
