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

_WHOLE = b"%b%bcontent-type: %b\r\ncontent-length: %d\r\n%b: %b\r\n%b\r\n%b"
_BODILESS = b"%b%b%b: %b\r\n%b\r\n"


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
        lines = b""
        for pair in extra:
            lines += b"%b: %b\r\n" % pair
        if not self.keep_alive:
            lines += b"connection: close\r\n"
        trace = trace_id.hex().encode()
        self.response_complete = True
        self.call = None  # which knows us
        if bodiless(status):
            response = _BODILESS % (STATUS_LINE[status], self._state.head, TRACE_HEADER, trace, lines)
        else:
            response = _WHOLE % (
                STATUS_LINE[status], self._state.head, content_type, len(body), TRACE_HEADER, trace, lines,
                b"" if self._head_only else body,
            )  # fmt: skip
        self._send(self, response)

    def fail(self) -> None:
        if not self.response_complete:
            self.response_complete = True
            self.call = None
            self._send(self, None)

    def gone(self) -> None:
        """The client has left, and whatever runs for it has nobody to run for."""
        if not self.response_complete and self.call is not None:
            self.call.gone()
            self.call = None


_NOBODY = _Nobody()
