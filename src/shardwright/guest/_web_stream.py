"""The shard's end of one exchange: events of the client wait here for the application, and the application for credit.

The hub's thread brings what the gateway sent; one application, on the shard's event loop or on a thread of the mailbox,
takes it. Nothing here blocks: who cannot go on registers a wake-up and asks again. ``_mutex`` guards all fields and is
never held while a wake-up runs or a message is sent.

What the gateway sends out of turn is a ProtocolViolation, which costs it the link. What waits here is bounded: by the
window, and by one WebSocket message that is being put together.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from shardwright.errors import ProtocolViolation
from shardwright.guest._exchange import (
    CREDIT,
    MAX_BATCH,
    MAX_EVENTS,
    OVERHEAD,
    Inflow,
    Joiner,
    Outflow,
    payload_of,
    read_credit,
)
from shardwright.guest._link import Link
from shardwright.guest._web_messages import (
    CONTINUE,
    ClientEvent,
    Continue,
    HttpDisconnect,
    HttpRequest,
    Open,
    WebSocketClose,
    WebSocketConnect,
    WebSocketDisconnect,
    WebSocketReceive,
    decode_client_events,
    encode_web,
)
from shardwright.model.envelope import Envelope, Kind, PayloadCodec

FAREWELL_BYTES = 256  # a DATA no longer than this, with nothing but a disconnect, needs no credit
_ONE_MORE = OVERHEAD + 1  # what a piece costs besides its bytes when it travels alone


class Stream:
    """Events both ways. ``gone`` is the event that says how the client went, once it has.

    Raises ProtocolViolation when ``opened`` is not such as may begin an exchange.
    """

    def __init__(self, link: Link, envelope: Envelope, opened: Open) -> None:
        self.opened = opened
        self.gone: HttpDisconnect | WebSocketDisconnect | None = None
        self.on_gone: Callable[[], None] = lambda: None
        self._link = link
        self._envelope = envelope
        self._is_http = opened.type == "http"
        self._mutex = threading.Lock()
        self._inbox: deque[tuple[ClientEvent, int]] = deque()
        self._joiner = Joiner()
        self._joining = 0  # the cost, not granted again yet, of pieces that wait for their last one
        self._ended = False  # no further events may come from the client
        self._inflow = Inflow()
        self._outflow = Outflow()
        self._waiting: list[Callable[[], None]] = []
        self._untold = CONTINUE in opened.extensions  # that the body is wanted
        if len(envelope.payload) > MAX_EVENTS:
            raise ProtocolViolation(f"an exchange is opened with {len(envelope.payload)} bytes")
        for event in opened.events:
            self._enter(event, 0)

    def __repr__(self) -> str:
        return f"<Stream {self.opened.type} {self.opened.path!r:.60}, {len(self._inbox)} events wait>"

    # -- the hub's thread --------------------------------------------------------------------------------------

    def heard(self, envelope: Envelope) -> None:
        """A DATA or CREDIT came. Raises ProtocolViolation."""
        if envelope.buffers:
            raise ProtocolViolation(f"{envelope.kind.name} with buffers")
        if envelope.kind is Kind.CREDIT:
            amount = read_credit(envelope.payload)
            with self._mutex:
                self._outflow.granted(amount)
            self.wake()
            return
        if envelope.codec is not PayloadCodec.WEB:
            raise ProtocolViolation(f"DATA of codec {envelope.codec.name}")
        payload = envelope.payload
        if len(payload) <= FAREWELL_BYTES:
            events = decode_client_events(payload)
            if len(events) == 1 and isinstance(events[0], (HttpDisconnect, WebSocketDisconnect)):
                self._heard(events, 0)
                return
        with self._mutex:
            cost = self._inflow.arrived(payload)  # before it is decoded: what overdraws takes no memory
        self._heard(decode_client_events(payload), cost)

    def _heard(self, events: tuple[ClientEvent, ...], cost: int) -> None:
        if not events:
            raise ProtocolViolation("DATA without events")
        left = self.gone
        with self._mutex:
            for event in events[:-1]:
                self._enter(event, 0)
            self._enter(events[-1], cost)  # the room of a message is granted again with its last event
            granted = self._grant_pieces()
        self._credit(granted)
        self.wake()
        if left is None and self.gone is not None:
            self.on_gone()

    def _enter(self, event: ClientEvent, cost: int) -> None:
        match event:
            case HttpDisconnect() if self._is_http:
                self._go(event)
            case WebSocketDisconnect() if not self._is_http:
                self._go(event)
            case HttpRequest() if self._is_http and not self._ended:
                self._ended = not event.more_body
                self._inbox.append((event, cost))
            case WebSocketConnect() if not self._is_http and not self._ended:
                self._joining += cost  # every application hears of it first of all: the gateway need not say so
            case WebSocketReceive() if not self._is_http and not self._ended:
                whole = self._joiner.add(event)
                self._joining += cost
                if isinstance(whole, WebSocketReceive):
                    whole.event()  # is it text?
                    self._inbox.append((whole, self._joining))
                    self._joining = 0
            case _ if self.gone is None:
                raise ProtocolViolation(f"{type(event).__name__} has no place here in a {self.opened.type} exchange")

    def _grant_pieces(self) -> int:
        """Make room for the rest of a message whose pieces wait, unless a whole one waits before it."""
        if self._inbox or not self._joining:
            return 0
        used, self._joining = self._joining, 0
        return self._inflow.used(used)

    def go(self) -> None:
        """The client is gone, or the gateway is. Any thread; only the first time counts."""
        with self._mutex:
            if self.gone is not None:
                return
            self._go(HttpDisconnect() if self._is_http else WebSocketDisconnect(1006))
        self.wake()
        self.on_gone()

    def leave(self, code: int) -> None:
        """The shard ends: a WebSocket is closed, and both its sides hear so. Any thread but the hub's."""
        with self._mutex:
            if self._is_http or self.gone is not None:
                return
            self._go(WebSocketDisconnect(code))
        close = encode_web(WebSocketClose(code))
        if self.reserve(close):  # a client that reads nothing sees the end only
            self.send([close])
        self.wake()  # now, for with the application's return the exchange is over

    def _go(self, event: HttpDisconnect | WebSocketDisconnect) -> None:
        if self.gone is None:
            self.gone = event
            self._ended = True
            if not self._is_http:
                self._inbox.append((event, 0))  # what it said before is heard before

    # -- the application's side --------------------------------------------------------------------------------

    def want(self) -> None:
        """The application asks for the body; a gateway that waits for that, because its client does, is told."""
        if self._untold:
            self._untold = False
            piece = encode_web(Continue())
            if not self._inbox and self.gone is None and self.reserve(piece):
                self.send([piece])

    def take(self) -> ClientEvent | None:
        """The next event of the client; None: there is none yet."""
        with self._mutex:
            if not self._inbox:
                return None
            event, cost = self._inbox.popleft()
            granted = self._inflow.used(cost) if cost else 0
            granted += self._grant_pieces()
        self._credit(granted)
        return event

    def reserve(self, piece: bytes) -> bool:
        """Whether ``piece`` may be sent; then it must be. False: not before ``wake``."""
        with self._mutex:
            return self._outflow.take_bytes(_ONE_MORE + len(piece))

    def send(self, reserved: Sequence[bytes]) -> None:
        """Send pieces for which there is room; waits while the socket is full, with the baton put down."""
        batch: list[bytes] = []
        size = 0
        for piece in reserved:
            if batch and (len(batch) == MAX_BATCH or size + len(piece) >= MAX_EVENTS):
                self._send(batch)
                batch, size = [], 0
            batch.append(piece)
            size += len(piece)
        if batch:
            self._send(batch)

    def _send(self, batch: Sequence[bytes]) -> None:
        if len(batch) > 1:
            with self._mutex:
                self._outflow.give_back(_ONE_MORE * (len(batch) - 1))
        self._post(Kind.DATA, PayloadCodec.WEB, payload_of(batch))

    def when_changed(self, wake: Callable[[], None], still: Callable[[], bool]) -> bool:
        """Have ``wake`` called once after the next change; False, and no call, if ``still`` no longer holds."""
        with self._mutex:
            if not still():
                return False
            self._waiting.append(wake)
            return True

    def forget(self, wake: Callable[[], None]) -> None:
        """Do not call it any more: who waited gave up."""
        with self._mutex:
            if wake in self._waiting:
                self._waiting.remove(wake)

    @property
    def quiet(self) -> bool:
        """Whether nothing of the client waits here. For ``still``: asks without the mutex."""
        return not self._inbox and self.gone is None

    def tight(self, piece: bytes) -> bool:
        """Whether there is no room for ``piece``. For ``still``."""
        return self._outflow.available < _ONE_MORE + len(piece) and self.gone is None

    def wake(self) -> None:
        """Let everybody who waits here look again. Any thread."""
        with self._mutex:
            waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()

    def _credit(self, granted: int) -> None:
        if granted and self.gone is None:
            self._post(Kind.CREDIT, PayloadCodec.NONE, CREDIT.pack(granted))

    def _post(self, kind: Kind, codec: PayloadCodec, payload: bytes) -> None:
        asked = self._envelope
        self._link.post(
            Envelope(
                kind=kind,
                call_id=asked.call_id,
                session=asked.session,
                trace_id=asked.trace_id,
                chain=asked.chain,
                codec=codec,
                payload=payload,
            )
        )
