"""A request whose answer is sent by a callback, where uvicorn keeps the cycle of one that an application answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from shardwright.gateway._front_asgi import TRACE_HEADER, bodiless
from shardwright.gateway._server_connection import GatewayState

if TYPE_CHECKING:
    from shardwright.gateway._front_functions import DirectCall

__all__ = ["DirectCycle"]


class _Nobody:
    """Nobody waits for more of the request."""

    __slots__ = ()

    def set(self) -> None:
        pass


class DirectCycle:
    """One response. The names without an underscore are those that uvicorn reads and sets; ``call`` is what runs for it."""

    __slots__ = (
        "_head_only",
        "_send",
        "_state",
        "call",
        "disconnected",
        "keep_alive",
        "message_event",
        "more_body",
        "response_complete",
        "response_started",
    )

    def __init__(
        self, state: GatewayState, send: Callable[[DirectCycle, bytes | None], None], head_only: bool, keep_alive: bool
    ) -> None:
        """``send`` gets the bytes of the response, once; None: it could not be made, and the connection is of no use."""
        self._state = state
        self._send = send
        self._head_only = head_only
        self.keep_alive = keep_alive
        self.call: DirectCall | None = None
        self.message_event = _NOBODY
        self.more_body = False
        self.disconnected = False
        self.response_started = False
        self.response_complete = False

    def answer(
        self,
        status: int,
        content_type: bytes,
        body: bytes,
        trace_id: bytes,
        extra: Iterable[tuple[bytes, bytes]],
    ) -> None:
        head = STATUS_LINE[status] + self._state.head
        if not bodiless(status):
            head += b"content-type: %b\r\ncontent-length: %d\r\n" % (content_type, len(body))
        head += b"%b: %b\r\n" % (TRACE_HEADER, trace_id.hex().encode())
        for pair in extra:
            head += b"%b: %b\r\n" % pair
        if not self.keep_alive:
            head += b"connection: close\r\n"
        self.response_complete = True
        self._send(self, head + b"\r\n" if self._head_only or bodiless(status) else b"%b\r\n%b" % (head, body))

    def fail(self) -> None:
        if not self.response_complete:
            self.response_complete = True
            self._send(self, None)

    def gone(self) -> None:
        """The client has left, and whatever runs for it has nobody to run for."""
        if not self.response_complete and self.call is not None:
            self.call.gone()


_NOBODY = _Nobody()
