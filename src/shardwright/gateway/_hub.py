"""Links to shards that live on one event loop: no thread reads for them, and nothing in them waits.

The wire is that of ``transport.socket`` (docs/protocol-socket.md): messages of a length and a body over a Unix stream
socket. Its other end may be hostile. What arrives is read into one buffer for all links and taken apart there; whoever
is handed a payload copies what it keeps, before it returns. What cannot be sent at once is kept and sent when the socket
takes it; whoever would send much asks ``room`` first.

A little beyond 400 lines: one conversation, how it is sent and how it is read, stays together (rings: ``_rings``).
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from shardwright.contracts.transport import Part
from shardwright.errors import ChannelClosed, MessageTooLarge, ProtocolViolation
from shardwright.gateway._turns import at_end_of_turn
from shardwright.guest import RINGS
from shardwright.model.endpoint import Peer
from shardwright.model.envelope import Envelope, Kind
from shardwright.transport import pack, unpack

if TYPE_CHECKING:
    from shardwright.gateway._rings import LoopRings

_LENGTH = struct.Struct("<I")
_BUFFER_BYTES = 256 * 2**10
_BELIEVED_BYTES = 2**20  # what a length alone may make us allocate
_GROWTH = 8  # after that: at most this many times what really came
_JOIN_BELOW_BYTES = 16 * 2**10  # below this, one copy is cheaper than a gathering write
_PARTS_PER_WRITE = 512
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
MAX_MESSAGE_BYTES = 64 * 2**20
FULL_BYTES = 2**20  # so much waits to be sent, and whoever would send more waits
MAX_UNSENT_BYTES = 16 * 2**20  # of messages that nobody waits for; a peer that lets more wait is cut off
STRAYS_OF_A_CALL = 1  # messages that may still come for a call that was given up


class Waiter(Protocol):
    """Where messages of one outgoing call go. Payloads are views that are good until the method returns.

    Each may raise ProtocolViolation: the peer is cut off.
    """

    def replied(self, envelope: Envelope) -> None:
        """The RESULT or ERROR; nothing comes after it."""

    def arrived(self, envelope: Envelope) -> None:
        """A DATA or CREDIT."""

    def lost(self, reason: ChannelClosed) -> None:
        """The conversation is over; nothing comes after it."""


class LinkEvents(Protocol):
    """Who owns the links."""

    def on_closed(self, link: LoopLink, reason: ChannelClosed) -> None:
        """Before its waiters hear of it: whoever hears of the loss must find it entered."""


class LoopHub:
    """What all links of one event loop share."""

    def __init__(self, loop: asyncio.AbstractEventLoop, events: LinkEvents) -> None:
        self.loop = loop
        self.events = events
        self.buffer = memoryview(bytearray(_BUFFER_BYTES))
        self.links: set[LoopLink] = set()
        self.at_end = at_end_of_turn(loop)
        self.rings: LoopRings | None = None

    def __repr__(self) -> str:
        return f"<LoopHub {len(self.links)} links>"

    def open(self, descriptor: int, transport: str, peer: Peer) -> LoopLink:
        """A link to that peer. The descriptor is used up. Raises ChannelClosed."""
        if transport == RINGS:
            from shardwright.gateway._rings import (  # what it needs is there only where the extension is
                LoopRings,
                RingLink,
            )

            if self.rings is None:
                self.rings = LoopRings(self.loop, MAX_MESSAGE_BYTES)
            return RingLink(self, self.rings, descriptor, peer)
        return LoopLink(self, descriptor, peer)

    def close(self) -> None:
        """End every conversation."""
        for link in list(self.links):
            link.close()
        if self.rings is not None:
            self.rings.close()


class LoopLink:
    """One conversation in which this side calls. Takes the descriptor over. Use from its loop alone."""

    def __init__(self, hub: LoopHub, descriptor: int, peer: Peer) -> None:
        connection = socket.socket(fileno=descriptor)
        connection.settimeout(None)
        self._socket = connection
        self._receive: Callable[..., int] = connection.recv_into
        self._send: Callable[..., int] = connection.send
        self._partial = b""
        self._large: bytearray | None = None  # a message that is too large for the buffer, as far as it is here
        self._large_size = 0
        self._filled = 0
        self._enter(hub, peer)
        hub.loop.add_reader(connection.fileno(), self._readable)

    def _enter(self, hub: LoopHub, peer: Peer) -> None:
        """What does not depend on how messages travel."""
        self.peer = peer
        self._hub = hub
        self._waiters: dict[int, Waiter] = {}
        self._ids = itertools.count(1)
        self._last_id = 0
        self._strays = 0  # messages of calls that were given up, which may still come
        self._why_closed: ChannelClosed | None = None
        self._retired = False
        self._held = 0  # calls that are about to begin
        self._gathered: list[Part] = []  # to be sent at the next turn of the loop
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._writers: deque[asyncio.Future[None]] = deque()
        hub.links.add(self)

    def __repr__(self) -> str:
        state = "closed" if self._why_closed else f"{len(self._waiters)} in flight, {self._unsent_bytes} bytes unsent"
        return f"<LoopLink to {self.peer.shard}, {state}>"

    @property
    def closed(self) -> ChannelClosed | None:
        """Why it is over; None while it is not."""
        return self._why_closed

    @property
    def in_flight(self) -> int:
        return len(self._waiters)

    @property
    def full(self) -> bool:
        """Whether enough waits to be sent: wait for ``room`` before sending more."""
        return self._unsent_bytes > FULL_BYTES

    async def room(self) -> None:
        """Wait until the peer has read. Raises ChannelClosed."""
        while self._unsent_bytes > FULL_BYTES:
            future: asyncio.Future[None] = self._hub.loop.create_future()
            self._writers.append(future)
            await future
        if self._why_closed is not None:
            raise self._why_closed

    def hold(self) -> None:
        """A call is about to begin: it may, even if the shard is replaced meanwhile. Followed by one ``release``."""
        self._held += 1

    def release(self) -> None:
        self._held -= 1
        self._close_retired()

    def retire(self) -> None:
        """Begin no further call; close once those in flight have their outcome."""
        self._retired = True
        self._close_retired()

    def _close_retired(self) -> None:
        if self._retired and not self._waiters and not self._held:
            self.close()

    def next_id(self) -> int:
        self._last_id = next(self._ids)
        return self._last_id

    def begin(self, envelope: Envelope, waiter: Waiter) -> None:
        """Send a call; what comes of it goes to ``waiter``. Raises ChannelClosed, MessageTooLarge: then nothing comes."""
        if self._why_closed is not None:
            raise self._why_closed
        if self._retired and not self._held:
            raise ChannelClosed(f"{self.peer.shard} is replaced")
        parts = pack(envelope)  # what does not fit must be told before anybody counts on it
        self._waiters[envelope.call_id] = waiter
        try:
            self._transmit(parts)
        except BaseException:
            self._waiters.pop(envelope.call_id, None)
            raise

    def post(self, envelope: Envelope) -> None:
        """Send a message of a call in progress. Nothing happens when the conversation is over. Raises MessageTooLarge."""
        if self._why_closed is None:
            self._transmit(pack(envelope))
            if self._unsent_bytes > MAX_UNSENT_BYTES:
                self.end(ChannelClosed(f"{self.peer.shard} does not read what it is sent"))

    def abandon(self, call_id: int, strays: int = STRAYS_OF_A_CALL) -> None:
        """Nobody waits for that call any more; tells the peer, of which so many messages may still come."""
        if self._waiters.pop(call_id, None) is not None:
            self._strays += strays
            self.post(Envelope(kind=Kind.CANCEL, call_id=call_id))
            self._close_retired()

    def close(self) -> None:
        self.end(ChannelClosed(f"the link to {self.peer.shard} was closed"))

    def end(self, reason: ChannelClosed) -> None:
        """Cut the peer off; whoever waits hears of it. Idempotent."""
        if self._why_closed is not None:
            return
        self._why_closed = reason
        hub = self._hub
        hub.links.discard(self)
        self._shut()
        self._gathered.clear()
        self._unsent.clear()
        self._unsent_bytes = 0
        hub.events.on_closed(self, reason)
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters.values():
            waiter.lost(reason)
        self._wake()

    def _shut(self) -> None:
        loop = self._hub.loop
        loop.remove_reader(self._socket.fileno())
        loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._large = None

    # -- sending -----------------------------------------------------------------------------------------------

    def _transmit(self, parts: Sequence[Part]) -> None:
        size = sum(map(len, parts))
        if size > MAX_MESSAGE_BYTES:
            raise MessageTooLarge(
                f"a message of {size} bytes; a link carries at most {MAX_MESSAGE_BYTES}", outcome="not started"
            )
        if size >= _JOIN_BELOW_BYTES:
            self._send_gathered()
        if self._unsent or size >= _JOIN_BELOW_BYTES:
            self._keep([_LENGTH.pack(size), *parts])
            if len(self._unsent) == len(parts) + 1:  # nothing was there before
                self._flush()
            return
        if not self._gathered:
            self._hub.at_end(self._send_gathered)
        self._gathered += (_LENGTH.pack(size), *parts)
        self._unsent_bytes += size + 4

    def _send_gathered(self) -> bool:
        """What one turn of the loop brought, in one piece: the kernel and the peer are woken once for all of it.

        Whether something was scheduled on the loop.
        """
        if not self._gathered:
            return False
        data = b"".join(self._gathered)
        self._gathered.clear()
        self._unsent_bytes -= len(data)
        if self._unsent:
            self._keep([data])
            return False
        try:
            sent = self._send(data, _FLAGS)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._broken(error)
            return True
        if sent < len(data):
            self._keep([memoryview(data)[sent:]])
            self._hub.loop.add_writer(self._socket.fileno(), self._flush)
        elif self._writers and self._unsent_bytes <= FULL_BYTES:
            self._wake()
            return True
        return False

    def _keep(self, parts: Sequence[Part]) -> None:
        for part in parts:
            self._unsent.append(memoryview(part).cast("B"))
            self._unsent_bytes += len(part)

    def _flush(self) -> None:
        while self._unsent:
            try:
                views = list(itertools.islice(self._unsent, _PARTS_PER_WRITE))
                sent = self._socket.sendmsg(views, (), _FLAGS)
            except BlockingIOError:
                self._hub.loop.add_writer(self._socket.fileno(), self._flush)
                break
            except OSError as error:
                self._broken(error)
                return
            self._unsent_bytes -= sent
            while sent:
                first = self._unsent.popleft()
                if sent < len(first):
                    self._unsent.appendleft(first[sent:])
                    break
                sent -= len(first)
        else:
            self._hub.loop.remove_writer(self._socket.fileno())
        if self._writers and self._unsent_bytes <= FULL_BYTES:
            self._wake()

    def _broken(self, error: OSError) -> None:
        """What the peer sent before it went may still be here; the reader finds the end after it."""
        self._unsent.clear()
        self._unsent_bytes = 0
        self._hub.loop.remove_writer(self._socket.fileno())
        self._hub.loop.call_soon(self._drain_and_end, ChannelClosed(f"{self.peer.shard} is gone: {error}"))

    def _drain_and_end(self, reason: ChannelClosed) -> None:
        for _ in range(64):
            if self._why_closed is not None or not self._readable():
                break
        self.end(reason)

    def _wake(self) -> None:
        while self._writers:
            future = self._writers.popleft()
            if not future.done():
                future.set_result(None)

    # -- receiving ---------------------------------------------------------------------------------------------

    def _readable(self) -> bool:
        """Read once; whether anything was there."""
        buffer = self._hub.buffer
        try:
            if self._large is not None:
                return self._read_large()
            held = len(self._partial)
            if held:
                buffer[:held] = self._partial
                count = self._receive(buffer[held:], 0, socket.MSG_DONTWAIT)
            else:
                count = self._receive(buffer, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            self.end(ChannelClosed(f"{self.peer.shard} is gone: {error}"))
            return False
        if not count:
            self.end(ChannelClosed(f"{self.peer.shard} is gone"))
            return False
        end = held + count
        position = 0
        while end - position >= 4:
            (size,) = _LENGTH.unpack_from(buffer, position)
            start = position + 4
            if size > end - start:
                if size > MAX_MESSAGE_BYTES:
                    self.end(ProtocolViolation(f"a message of {size} bytes, and {MAX_MESSAGE_BYTES} are possible"))
                    return True
                if size + 4 > len(buffer):
                    self._begin_large(size, buffer[start:end])
                    self._partial = b""
                    return True
                break
            self._frame(buffer[start : start + size])
            if self._why_closed is not None:
                return True
            position = start + size
        self._partial = bytes(buffer[position:end]) if position < end else b""
        return True

    def _begin_large(self, size: int, begun: memoryview) -> None:
        self._large = bytearray(min(size, max(_BELIEVED_BYTES, _GROWTH * len(begun))))
        self._large[: len(begun)] = begun
        self._filled = len(begun)
        self._large_size = size

    def _read_large(self) -> bool:
        large = self._large
        assert large is not None
        if self._filled == len(large):
            large.extend(bytes(min(self._large_size, _GROWTH * self._filled) - self._filled))
        with memoryview(large) as view:
            count = self._receive(view[self._filled :], 0, socket.MSG_DONTWAIT)
        if not count:
            self.end(ChannelClosed(f"{self.peer.shard} is gone"))
            return False
        self._filled += count
        if self._filled == self._large_size:
            self._large = None
            self._frame(memoryview(large))
        return True

    def _frame(self, frame: bytes | memoryview) -> None:
        try:
            envelope = unpack(frame)
            kind = envelope.kind
            if kind is Kind.RESULT or kind is Kind.ERROR:
                waiter = self._waiters.pop(envelope.call_id, None)
                if waiter is not None:
                    try:
                        waiter.replied(envelope)
                    except ProtocolViolation as violation:
                        waiter.lost(violation)
                        raise
                    if self._retired:
                        self._close_retired()
                    return
            elif kind is Kind.DATA or kind is Kind.CREDIT:
                waiter = self._waiters.get(envelope.call_id)
                if waiter is not None:
                    waiter.arrived(envelope)
                    return
            else:
                raise ProtocolViolation(f"a shard sends no {kind.name} to the gateway")
            self._strays -= 1
            if self._strays < 0 or envelope.call_id > self._last_id:
                raise ProtocolViolation(f"a {kind.name} of a call that nobody makes")
        except ProtocolViolation as violation:
            self.end(violation)
        except Exception as defect:  # a message that defeats us costs its sender the link, and nobody else
            self.end(ProtocolViolation(f"a message could not be handled: {defect!r:.300}"))
