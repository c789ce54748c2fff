"""One open conversation with an application: the gateway's end of it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from shardwright.errors import ChannelClosed, ProtocolViolation, ShardwrightError
from shardwright.gateway._backend import HeadTooLarge
from shardwright.gateway._hub import LoopLink
from shardwright.gateway._replies import answer_in, lost_call
from shardwright.guest import (
    CREDIT,
    MAX_EVENTS,
    WINDOW,
    ApplicationEvent,
    ClientEvent,
    Inflow,
    Joiner,
    Open,
    Outflow,
    Returned,
    WebSocketSend,
    client_event,
    cost,
    decode_application_events,
    encode_web,
    payloads,
    read_credit,
)
from shardwright.model.envelope import Envelope, Kind, PayloadCodec

STRAYS = WINDOW // cost(b"") + 1  # messages that an exchange which was given up may still have on their way
FIRST_EVENT_BYTES = MAX_EVENTS // 2  # of an event that travels with Open


class LinkExchange:
    """An ``Exchange`` over one link. Made unopened: Open is sent with the client's first event, or the first wait.

    ``opening`` makes the envelope of the CALL; ``ended`` is called once, when nothing more will come or be sent.
    """

    __slots__ = (
        "_call_id",
        "_ended",
        "_events",
        "_holding",
        "_in",
        "_joiner",
        "_link",
        "_loop",
        "_opening",
        "_out",
        "_outcome",
        "_over",
        "_receiver",
        "_scope",
        "_senders",
        "_told_ended",
        "_what",
    )

    def __init__(
        self,
        link: LoopLink,
        what: str,
        scope: dict[str, Any],
        opening: Callable[[bytes], Envelope],
        ended: Callable[[], None],
    ) -> None:
        self._link = link
        self._what = what
        self._scope = scope
        self._opening = opening
        self._ended = ended
        self._call_id = 0
        self._out = Outflow()
        self._in = Inflow()
        self._joiner = Joiner()
        self._events: deque[tuple[ApplicationEvent, int]] = deque()  # and what to give back when it was taken
        self._over = False  # nothing more can be sent; events that came may still be taken
        self._told_ended = False
        self._outcome: ShardwrightError | None = None
        self._receiver: asyncio.Future[None] | None = None
        self._senders: list[asyncio.Future[None]] = []
        self._loop = asyncio.get_running_loop()
        self._holding = True
        link.hold()

    def __repr__(self) -> str:
        return f"<LinkExchange {self._what}, {'over' if self._over else 'open'}, {len(self._events)} events wait>"

    # -- Exchange ----------------------------------------------------------------------------------------------

    async def send(self, event: dict[str, Any]) -> None:
        message = client_event(event)
        if not self._call_id and not self._over:
            await self._open(message)
            return
        for payload in payloads(message):
            while not self._over and not self._out.take(payload):
                await self._changed()
            if self._over:
                return
            self._link.post(Envelope(Kind.DATA, self._call_id, codec=PayloadCodec.WEB, payload=payload))

    async def receive(self) -> dict[str, Any] | None:
        if not self._call_id and not self._over:
            await self._open(None)
        while True:
            while not self._events and not self._over:
                self._receiver = self._loop.create_future()
                try:
                    await self._receiver
                finally:
                    self._receiver = None
            if not self._events:
                if self._outcome is not None:
                    raise self._outcome
                return None
            message, used = self._events.popleft()
            self._grant(used)
            if isinstance(message, WebSocketSend):
                try:
                    whole = self._joiner.add(message)
                    if whole is None:
                        continue
                    return whole.event()
                except ProtocolViolation as violation:
                    self._link.end(violation)
                    continue
            return message.event()

    def cancel(self) -> None:
        if not self._over:
            self._over = True
            if self._call_id:
                self._link.abandon(self._call_id, STRAYS)
            self._wake()
        self._events.clear()
        self._tell_ended()

    # -- the waiter of the call --------------------------------------------------------------------------------

    def replied(self, envelope: Envelope) -> None:
        answer = answer_in(envelope)
        if isinstance(answer, ShardwrightError):
            self._finish(answer)
        elif isinstance(answer, Returned):
            self._events.extend((event, 0) for event in answer.events)
            self._finish(None)
        else:
            raise ProtocolViolation(f"{type(answer).__name__} ends no exchange")

    def arrived(self, envelope: Envelope) -> None:
        if envelope.kind is Kind.CREDIT:
            self._out.granted(read_credit(envelope.payload))
            self._wake()
            return
        if envelope.codec is not PayloadCodec.WEB or envelope.buffers:
            raise ProtocolViolation(f"a DATA of codec {envelope.codec.name} to the gateway")
        used = self._in.arrived(envelope.payload)
        events = decode_application_events(envelope.payload)
        for event in events[:-1]:
            self._events.append((event, 0))
        if events:
            self._events.append((events[-1], used))
        else:
            self._grant(used)
        self._wake_receiver()

    def lost(self, reason: ChannelClosed) -> None:
        self._finish(lost_call(self._what, self._link.peer.shard, reason))

    # -- inside ------------------------------------------------------------------------------------------------

    async def _open(self, first: ClientEvent | None) -> None:
        """Raises HeadTooLarge, ShardLost.

        A shard takes a larger message for a breach of the protocol, and every exchange on its link would end.
        """
        rest: list[bytes] = [] if first is None else list(payloads(first))
        payload = b""
        if first is not None and len(rest) == 1 and len(rest[0]) <= FIRST_EVENT_BYTES:
            payload = encode_web(Open.of(self._scope, (first,)))
        if payload and len(payload) <= MAX_EVENTS:
            rest = []
        else:
            payload = encode_web(Open.of(self._scope))
        if len(payload) > MAX_EVENTS:
            size = f"{len(payload)} bytes of at most {MAX_EVENTS}"
            refused = HeadTooLarge(f"{self._what}: the head of its request takes {size}", outcome="not started")
            self._finish(refused)
            raise refused
        envelope = self._opening(payload)
        self._scope = {}  # thousands may be open for hours, and it is not needed any more
        self._call_id = envelope.call_id
        try:
            if self._link.full:
                await self._link.room()
            self._link.begin(envelope, self)
        except ChannelClosed as closed:
            self._finish(lost_call(self._what, self._link.peer.shard, closed))
            raise self._outcome or closed from None
        except BaseException:
            self._over = True
            self._tell_ended()
            raise
        self._let_go()
        for piece in rest:
            while not self._over and not self._out.take(piece):
                await self._changed()
            if self._over:
                return
            self._link.post(Envelope(Kind.DATA, self._call_id, codec=PayloadCodec.WEB, payload=piece))

    def _let_go(self) -> None:
        if self._holding:
            self._holding = False
            self._link.release()

    def _grant(self, used: int) -> None:
        if used and not self._over:
            granted = self._in.used(used)
            if granted:
                self._link.post(Envelope(Kind.CREDIT, self._call_id, payload=CREDIT.pack(granted)))

    def _finish(self, outcome: ShardwrightError | None) -> None:
        if not self._over:
            self._over = True
            self._outcome = outcome
            self._wake()
            self._tell_ended()

    def _tell_ended(self) -> None:
        if not self._told_ended:
            self._told_ended = True
            self._let_go()
            self._ended()

    async def _changed(self) -> None:
        """Wait until there is more credit, or the end."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._senders.append(future)
        await future

    def _wake(self) -> None:
        if self._senders:
            senders, self._senders = self._senders, []
            for future in senders:
                if not future.done():
                    future.set_result(None)
        self._wake_receiver()

    def _wake_receiver(self) -> None:
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)
