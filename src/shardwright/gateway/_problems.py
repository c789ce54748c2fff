"""What the gateway answers when it cannot give what was asked: problem details (RFC 9457), with the trace id, and nothing
of what happened inside.
"""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from shardwright.errors import (
    CallError,
    CompositionRefused,
    DeadlineExceeded,
    MessageTooLarge,
    NotPermitted,
    Overloaded,
    ShardLost,
    WouldDeadlock,
)
from shardwright.gateway._backend import HeadTooLarge, Raised, SessionRefused

__all__ = ["PROBLEM_TYPE", "Problem", "problem_of"]

PROBLEM_TYPE = b"application/problem+json"
_json = msgspec.json.Encoder()


class Problem(Exception):
    """An answer that says no. ``headers`` are further ones of the response (``Allow``, ``Retry-After``)."""

    def __init__(self, status: int, detail: str = "", headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.headers = headers

    def body(self, trace_id: bytes) -> bytes:
        """The JSON of it."""
        shown: dict[str, object] = {"type": "about:blank", "title": _title(self.status), "status": self.status}
        if self.detail:
            shown["detail"] = self.detail
        if trace_id:
            shown["trace"] = trace_id.hex()
        return _json.encode(shown)


def _title(status: int) -> str:
    if status == 422:  # named anew by RFC 9110, and differently by versions of Python
        return "Unprocessable Content"
    if status == 413:
        return "Content Too Large"
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def problem_of(error: Exception, *, retry_after_s: int = 1) -> Problem:
    """What a client is told of ``error``.

    502: it may have been done, nobody knows. 503: it was not begun, and may be repeated. 504: it took too long.
    """
    retry = ((b"retry-after", b"%d" % retry_after_s),)
    match error:
        case Problem():
            return error
        case Raised(status=int(status)):
            return Problem(status)
        case Raised():
            return Problem(500, "The application failed.")
        case HeadTooLarge():
            return Problem(431)
        case MessageTooLarge():
            return Problem(413, "The request or its answer is larger than one message may be.")
        case DeadlineExceeded():
            return Problem(504, "The application did not answer in time.")
        case Overloaded():
            return Problem(503, "Too much is waiting already.", retry)
        case SessionRefused() | CompositionRefused():
            return Problem(503, "There is no room for this session now.", retry)
        case ShardLost(outcome="not started"):
            return Problem(503, "The application is starting.", retry)
        case ShardLost():
            return Problem(502, "The application ended before it answered.")
        case NotPermitted():
            return Problem(403, "This may not be called from here.")
        case WouldDeadlock():
            return Problem(508)
        case CallError(outcome="not started"):
            return Problem(503, "The application cannot be reached.", retry)
        case CallError():
            return Problem(502, "The application gave no usable answer.")
        case _:
            return Problem(500, "The gateway failed.")
