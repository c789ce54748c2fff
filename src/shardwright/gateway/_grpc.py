"""gRPC for the functions behind the routes, on the same port, connections and sockets as all else.

One unary method takes what HTTP would say, so that routes, sessions, admission and deadlines are the same::

    syntax = "proto3";
    package shardwright.v1;
    service Functions { rpc Call(Request) returns (Reply); }
    message Request { string method = 1; string target = 2; bytes body = 3; string content_type = 4; }
    message Reply { int32 status = 1; bytes body = 2; string content_type = 3; }

``method`` defaults to POST, ``content_type`` to ``application/json``. What a function answers is a Reply, whatever its
status; what the gateway refuses is a gRPC status. ``grpc-timeout`` bounds the call, ``shardwright-session`` is metadata.
The health service answers ``Check``. It is written on the HTTP/2 of this server: grpcio binds sockets of its own and takes
none from the keeper.
"""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import quote

from shardwright.errors import ShardwrightError
from shardwright.gateway._front_asgi import TRACE_HEADER, Receive, Send
from shardwright.gateway._problems import Problem, problem_of
from shardwright.guest import FunctionReply

__all__ = ["CALL", "CHECK", "GrpcRequest", "answer_grpc", "decode_request", "encode_reply", "timeout_s"]

CALL = b"/shardwright.v1.Functions/Call"
CHECK = b"/grpc.health.v1.Health/Check"
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"
_FIELDS = 1000  # in one message
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_STATUS = {
    400: 3,  # INVALID_ARGUMENT
    401: 16,  # UNAUTHENTICATED
    403: 7,  # PERMISSION_DENIED
    404: 5,  # NOT_FOUND
    405: 12,  # UNIMPLEMENTED
    408: 4,  # DEADLINE_EXCEEDED
    409: 10,  # ABORTED
    413: 8,  # RESOURCE_EXHAUSTED
    414: 3,
    429: 8,
    501: 12,
    502: 2,  # UNKNOWN: it may have been done
    503: 14,  # UNAVAILABLE
    504: 4,
}


class GrpcRequest:
    """The Request message."""

    __slots__ = ("body", "content_type", "method", "target")

    def __init__(self) -> None:
        self.method = "POST"
        self.target = ""
        self.body = b""
        self.content_type = "application/json"


def decode_request(message: bytes) -> GrpcRequest:
    """Raises Problem(400) for what is no Request. Unknown fields are skipped, as Protocol Buffers wants it."""
    request, at, fields = GrpcRequest(), 0, 0
    try:
        while at < len(message):
            fields += 1
            tag, at = _varint(message, at)
            number, wire = tag >> 3, tag & 7
            if wire == 2:
                length, at = _varint(message, at)
                value, at = message[at : at + length], at + length
                if at > len(message):
                    raise ValueError("a field longer than its message")
                match number:
                    case 1:
                        request.method = value.decode("ascii").upper() or "POST"
                    case 2:
                        request.target = value.decode("ascii")
                    case 3:
                        request.body = value
                    case 4:
                        request.content_type = value.decode("latin-1") or "application/json"
            elif wire == 0:
                _, at = _varint(message, at)
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
            else:
                raise ValueError("an unknown wire type")
            if not number or fields > _FIELDS:
                raise ValueError("no such field")
    except (ValueError, IndexError):
        raise Problem(400, "The message is no shardwright.v1.Request.") from None
    return request


def encode_reply(reply: FunctionReply) -> bytes:
    """The Reply message."""
    content_type = reply.content_type.encode()
    return b"".join(
        (
            b"\x08",
            _as_varint(reply.status),
            b"\x12",
            _as_varint(len(reply.body)),
            reply.body,
            b"\x1a",
            _as_varint(len(content_type)),
            content_type,
        )
    )


def timeout_s(value: bytes | None, default_s: float) -> float:
    """What ``grpc-timeout`` says, and no more than ``default_s``. Raises Problem(400)."""
    if value is None:
        return default_s
    found = _TIMEOUT.fullmatch(value)
    if found is None:
        raise Problem(400, "The grpc-timeout cannot be read.")
    return min(int(found.group(1)) * _UNITS_S[found.group(2)], default_s)


async def answer_grpc(
    path: bytes,
    headers: Mapping[bytes, bytes],
    receive: Receive,
    send: Send,
    trace_id: bytes,
    *,
    max_bytes: int,
    body_timeout_s: float,
    serving: Callable[[], Awaitable[bool]],
    call: Callable[[GrpcRequest], Awaitable[tuple[FunctionReply, tuple[tuple[bytes, bytes], ...]]]],
) -> None:
    """Answer one unary call."""
    extra: tuple[tuple[bytes, bytes], ...] = ()
    try:
        async with asyncio.timeout(body_timeout_s):
            message = await _message(receive, max_bytes)
        if path == CHECK:
            answer = _SERVING if await serving() else _NOT_SERVING
        else:
            reply, extra = await call(decode_request(message))
            answer = encode_reply(reply)
        status, text = 0, ""
    except TimeoutError:
        status, text, answer = 4, "The request did not arrive in time.", b""
    except (Problem, ShardwrightError) as error:
        problem = problem_of(error)
        status, text, answer = _STATUS.get(problem.status, 13), problem.detail, b""
    head = [(b"content-type", b"application/grpc"), (TRACE_HEADER, trace_id.hex().encode()), *extra]
    await send({"type": "http.response.start", "status": 200, "headers": head, "trailers": True})
    body = struct.pack(">BI", 0, len(answer)) + answer if not status else b""
    await send({"type": "http.response.body", "body": body})
    trailers = [(b"grpc-status", b"%d" % status)]
    if text:
        trailers.append((b"grpc-message", quote(text, safe=" ,.;:-").encode()))
    await send({"type": "http.response.trailers", "headers": trailers})


async def _message(receive: Receive, max_bytes: int) -> bytes:
    """The one message of a unary call."""
    data = bytearray()
    while True:
        event = await receive()
        if event["type"] != "http.request":
            raise asyncio.CancelledError
        data += event.get("body", b"")
        if len(data) > max_bytes + 5:
            raise Problem(413, "The message is larger than this gateway takes.")
        if not event.get("more_body", False):
            break
    if len(data) < 5 or int.from_bytes(data[1:5], "big") != len(data) - 5:
        raise Problem(400, "A unary call has one message.")
    if data[0]:
        raise Problem(501, "Compressed messages are not taken.")
    return bytes(data[5:])


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number without end")


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
