"""Small parts of ASGI that the front's halves share: types, the trace of a request, whole responses."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from shardwright.gateway._problems import PROBLEM_TYPE, Problem
from shardwright.gateway._random import random_bytes

__all__ = [
    "TRACE_HEADER",
    "Aborted",
    "Event",
    "Headers",
    "Receive",
    "Scope",
    "Send",
    "bodiless",
    "respond",
    "respond_problem",
    "safe_headers",
    "trace_of",
]

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

TRACE_HEADER = b"shardwright-trace"
"""Response header: the id by which logs and metrics know this request."""
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_HOP = frozenset({b"transfer-encoding", b"keep-alive", b"proxy-connection", b"upgrade"})
_NO_TRACE, _NO_SPAN = b"0" * 32, b"0" * 16


class Aborted(Exception):
    """The response was begun and cannot be ended: the server breaks the connection (or the stream) off, and logs nothing."""


def trace_of(traceparent: bytes | None) -> bytes:
    """The trace id that a client sent (W3C Trace Context), or a fresh one: 16 bytes."""
    if traceparent is not None:
        found = _TRACEPARENT.fullmatch(traceparent)
        if found is not None and found.group(1) != _NO_TRACE and found.group(2) != _NO_SPAN:
            return bytes.fromhex(found.group(1).decode())
    return random_bytes(16)


def bodiless(status: int) -> bool:
    """Whether a response of that status ends with its head, whatever it says of a body."""
    return status == 204 or status == 304


async def respond(
    send: Send,
    status: int,
    body: bytes,
    content_type: bytes,
    trace_id: bytes,
    extra: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    """A whole response."""
    headers = [
        (b"content-type", content_type),
        (b"content-length", b"%d" % len(body)),
        (TRACE_HEADER, trace_id.hex().encode()),
        *extra,
    ]
    if bodiless(status):
        del headers[:2]
        body = b""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def respond_problem(send: Send, problem: Problem, trace_id: bytes) -> None:
    """A whole response that says no."""
    headers = [*problem.headers, (b"cache-control", b"no-store")]
    await respond(send, problem.status, problem.body(trace_id), PROBLEM_TYPE, trace_id, headers)


def safe_headers(headers: Any) -> Headers:
    """The headers of an application's response, without what would change how the response is framed.

    A shard could otherwise desynchronise a connection that others share. Raises ValueError for what is no header at all.
    """
    kept: Headers = []
    lengths = 0
    for raw_name, value in headers:
        name = raw_name.lower()
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ValueError("a header that would not stay one header")
        if name in _HOP or (name == b"connection" and value.strip().lower() != b"close"):
            continue
        if name == b"content-length":
            lengths += 1
            if lengths > 1 or not value.isdigit() or len(value) > 18:
                raise ValueError("a content-length that is no length")
        elif name == b"set-cookie" and value.lstrip().startswith(b"sw_session="):
            continue  # the gateway's own
        kept.append((name, value))
    return kept
