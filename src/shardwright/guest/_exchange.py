"""The flow of an exchange: events both ways in DATA messages, each side sending no more than the other has room for.

Pure book-keeping, for both ends: what sends and what waits is the business of the guest and of the gateway. A DATA message
costs its bytes on the wire. Each side may send ``WINDOW`` bytes before it is granted more; CREDIT grants what the other side
has used up. So what an exchange holds in memory is bounded, whatever the other side does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from shardwright.errors import ProtocolViolation
from shardwright.guest._web_messages import (
    ApplicationEvent,
    ClientEvent,
    DenialBody,
    HttpRequest,
    ResponseBody,
    Returned,
    WebSocketReceive,
    WebSocketSend,
    encode_web,
)

WINDOW = 256 * 1024
PIECE = 64 * 1024  # of a body or message; larger ones are cut
MAX_EVENTS = 128 * 1024  # the payload of one DATA, and of the events in Open and Returned
MAX_WEBSOCKET_MESSAGE = 16 * 1024 * 1024
OVERHEAD = 76  # what a message costs besides its payload: the header of the envelope
CREDIT = struct.Struct("<I")


def cost(payload: bytes | memoryview) -> int:
    """What a DATA message with this payload uses up of the window."""
    return OVERHEAD + len(payload)


def read_credit(payload: bytes | memoryview) -> int:
    """The payload of a CREDIT. Raises ProtocolViolation."""
    if len(payload) != CREDIT.size:
        raise ProtocolViolation(f"a credit of {len(payload)} bytes, not {CREDIT.size}")
    granted: int = CREDIT.unpack(payload)[0]
    return granted


class Outflow:
    """What this side may still send."""

    __slots__ = ("available",)

    def __init__(self) -> None:
        self.available = WINDOW

    def take(self, payload: bytes) -> bool:
        """Whether a DATA with this payload may be sent now; if so it is counted. Otherwise wait for ``granted``."""
        return self.take_bytes(cost(payload))

    def take_bytes(self, needed: int) -> bool:
        if needed > self.available:
            return False
        self.available -= needed
        return True

    def give_back(self, amount: int) -> None:
        """So much of what was taken was not needed."""
        self.available += amount

    def granted(self, amount: int) -> None:
        """Raises ProtocolViolation when the other side grants more than it was sent."""
        if not 0 < amount <= WINDOW - self.available:
            raise ProtocolViolation(f"a credit of {amount} bytes where {WINDOW - self.available} are owed")
        self.available += amount


class Inflow:
    """What the other side may still send, and what of it this side has used up."""

    __slots__ = ("_ungranted", "allowed")

    def __init__(self) -> None:
        self.allowed = WINDOW
        self._ungranted = 0

    def arrived(self, payload: bytes | memoryview) -> int:
        """A DATA came; returns what it costs, to be handed to ``used``. Raises ProtocolViolation: too large, or overdrawn."""
        needed = cost(payload)
        if len(payload) > MAX_EVENTS:
            raise ProtocolViolation(f"a message of {len(payload)} bytes of events; {MAX_EVENTS} are possible")
        if needed > self.allowed:
            raise ProtocolViolation(f"a message of {needed} bytes where {self.allowed} were granted")
        self.allowed -= needed
        return needed

    def used(self, amount: int) -> int:
        """So much need not be held any more; returns what to grant in a CREDIT now: 0 while it is not worth a message."""
        self._ungranted += amount
        if self._ungranted < WINDOW // 4:
            return 0
        granted, self._ungranted = self._ungranted, 0
        self.allowed += granted
        return granted


class Joiner:
    """Puts the pieces of a WebSocket message together."""

    __slots__ = ("_bytes", "_pieces")

    def __init__(self) -> None:
        self._pieces: list[WebSocketReceive | WebSocketSend] = []
        self._bytes = 0

    def add(self, piece: WebSocketReceive | WebSocketSend) -> WebSocketReceive | WebSocketSend | None:
        """The whole message, if this was its last piece. Raises ProtocolViolation."""
        first = self._pieces[0] if self._pieces else piece
        self._bytes += len(piece.data)
        if first.text != piece.text or type(first) is not type(piece):
            raise ProtocolViolation("pieces of different messages follow each other")
        if self._bytes > MAX_WEBSOCKET_MESSAGE:
            raise ProtocolViolation(f"a message of more than {MAX_WEBSOCKET_MESSAGE} bytes")
        if piece.more and not piece.data:
            raise ProtocolViolation("an empty piece of a message")
        if not self._pieces and not piece.more:
            self._bytes = 0
            return piece
        self._pieces.append(piece)
        if piece.more:
            return None
        data = b"".join(each.data for each in self._pieces)
        self._pieces = []
        self._bytes = 0
        return type(piece)(data, text=piece.text)


MAX_BATCH = 15
"""Events that one DATA message carries at most, as this side makes them: their array has a header of one byte."""


def pieces(event: ClientEvent | ApplicationEvent) -> Iterator[bytes]:
    """``event`` as it is encoded inside a DATA message; large bodies and messages are cut into several events.

    Raises ValueError when the event is too large and cannot be cut: too many or too long headers.
    """
    match event:
        case HttpRequest() | ResponseBody() | DenialBody() if len(event.body) > PIECE:
            view = memoryview(event.body)
            for start in range(0, len(view), PIECE):
                more = event.more_body or start + PIECE < len(view)
                yield encode_web(type(event)(bytes(view[start : start + PIECE]), more))
        case WebSocketReceive() | WebSocketSend() if len(event.data) > PIECE:
            view = memoryview(event.data)
            for start in range(0, len(view), PIECE):
                more = start + PIECE < len(view)
                yield encode_web(type(event)(bytes(view[start : start + PIECE]), event.text, more))
        case _:
            piece = encode_web(event)
            if len(piece) >= MAX_EVENTS:
                raise ValueError(
                    f"{type(event).__name__} takes {len(piece)} bytes; fewer than {MAX_EVENTS} are possible"
                )
            yield piece


def payload_of(encoded: Sequence[bytes]) -> bytes:
    """The payload of one DATA that carries these pieces, at most ``MAX_BATCH``."""
    return b"".join((_ARRAYS[len(encoded)], *encoded))


def returned_with(encoded: Sequence[bytes]) -> bytes:
    """The payload of a RESULT ``Returned`` whose events are these pieces, at most ``MAX_BATCH``."""
    if not encoded:
        return _RETURNED
    return b"".join((_RETURNED_EVENTS, _ARRAYS[len(encoded)], *encoded))


_ARRAYS = tuple(bytes((0x90 | count,)) for count in range(MAX_BATCH + 1))
_RETURNED = encode_web(Returned())
_RETURNED_EVENTS = b"\x82" + _RETURNED[1:] + b"\xa6events"  # a map of two, for what was a map of one


def payloads(event: ClientEvent | ApplicationEvent) -> Iterator[bytes]:
    """The payloads of the DATA messages that carry ``event``, one piece each. Raises ValueError as ``pieces``."""
    for piece in pieces(event):
        yield payload_of((piece,))
