"""How responses of HTTP/1.1 go out: in few writes, and to clients of HTTP/1.0 without chunks."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from shardwright.gateway._front_asgi import Event, Receive, Scope, Send

__all__ = ["Cork", "without_chunks"]

_JOIN_BELOW_BYTES = 64 * 2**10  # below this, one copy is cheaper than a write


class Cork:
    """What a response writes to: its head waits for the body until the loop's next turn, and both go out in one piece.

    uvicorn writes them apart, and a write is what a small response costs most.
    """

    __slots__ = ("_head", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            if len(data) < _JOIN_BELOW_BYTES:
                data = self._head + data
            else:
                self._transport.write(self._head)
            self._head = b""
        elif data.startswith(b"HTTP/"):
            self._head = data
            self._loop.call_soon(self.flush)
            return
        self._transport.write(data)

    def flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


async def without_chunks(app: Any, cycle: RequestResponseCycle, scope: Scope, receive: Receive, send: Send) -> None:
    """HTTP/1.0 knows no chunks: where nobody says how long a body is, the end of the connection is its end."""
    measured = True

    async def send_raw(event: Event) -> None:
        nonlocal measured
        if event["type"] == "http.response.start" and not any(
            name == b"content-length" for name, _ in event["headers"]
        ):
            measured = cycle.chunked_encoding = cycle.keep_alive = False
        elif not measured:
            cycle.expected_content_length = 0 if scope["method"] == "HEAD" else len(event.get("body", b""))
        await send(event)

    await app(scope, receive, send_raw)
