"""One request of an HTTP/2 connection, and its response: bodies both ways within the windows of the stream."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from h2.exceptions import H2Error

from shardwright.gateway._front_asgi import respond_problem, safe_headers, trace_of
from shardwright.gateway._problems import Problem
from shardwright.gateway._server_connection import Running

if TYPE_CHECKING:
    from shardwright.gateway._server_http2 import Http2Protocol

__all__ = ["Stream"]


class Stream:
    """One request and its response."""

    def __init__(self, owner: Http2Protocol, stream_id: int, method: bytes) -> None:
        self.stream_id = stream_id
        self.method = method
        self.window = asyncio.Event()
        self.stuck_since_s = 0.0
        self.complete = False
        self.more_body = True
        self._owner = owner
        self._body: deque[tuple[bytes, int]] = deque()
        self._arrived = asyncio.Event()
        self._running = Running(owner.app)
        self._gone = False
        self._started = False
        self._told_end = False
        self._length_left: int | None = None
        self._trailers: list[tuple[bytes, bytes]] | None = None
        self._bodyless = False

    async def run(self, app: Any, scope: dict[str, Any], refused: Problem | None) -> None:
        """Answer it. ``refused``: what is said in place of what ``app`` would say."""
        try:
            if refused is not None:
                await respond_problem(self.send, refused, trace_of(None))
            else:
                await self._running(scope, self.receive, self.send)
        finally:
            self._owner.over(self)

    def arrived(self, data: bytes, length: int) -> None:
        self._body.append((data, length))
        self._arrived.set()

    def ended(self) -> None:
        self.more_body = False
        self._arrived.set()

    def gone(self) -> None:
        """The peer, or the connection, is away."""
        self._gone = True
        self._arrived.set()
        self.window.set()
        if not self.complete:
            self._running.gone()

    def uncredited(self) -> int:
        """Bytes of the body that nobody took."""
        length = sum(length for _, length in self._body)
        self._body.clear()
        return length

    def _is_gone(self) -> bool:
        return self._gone or self.complete

    async def receive(self) -> dict[str, Any]:
        while not self._is_gone():
            if self._body and not self._told_end:
                data, length = self._body.popleft()
                self._owner.credit(self.stream_id, length)
                self._told_end = not self.more_body and not self._body
                return {"type": "http.request", "body": data, "more_body": not self._told_end}
            if not self.more_body and not self._told_end:
                self._told_end = True
                return {"type": "http.request", "body": b"", "more_body": False}
            self._arrived.clear()
            await self._arrived.wait()
        return {"type": "http.disconnect"}

    async def send(self, event: dict[str, Any]) -> None:
        if self._is_gone():
            return
        try:
            await self._say(event)
        except H2Error:  # the peer has closed the stream, or all of them
            self.gone()

    async def _say(self, event: dict[str, Any]) -> None:
        conn = self._owner.conn
        kind = event["type"]
        if kind == "http.response.start":
            self._begin(event)
        elif kind == "http.response.body":
            if not self._bodyless:
                await self._send_body(event.get("body", b""))
            if self._is_gone() or event.get("more_body"):
                return
            if self._length_left and not self._bodyless:
                return  # shorter than it said: `over` resets the stream
            if self._trailers is None or self._bodyless:
                self.complete = True
                if not self._bodyless:
                    conn.end_stream(self.stream_id)
        elif kind == "http.response.trailers" and self._trailers is not None:
            self._trailers += [(name.lower(), value) for name, value in event.get("headers", ())]
            if event.get("more_trailers"):
                return
            self.complete = True
            if self._trailers:
                conn.send_headers(self.stream_id, self._trailers, end_stream=True)
            else:
                conn.end_stream(self.stream_id)
        self._owner.flush()

    def _begin(self, event: dict[str, Any]) -> None:
        status = event["status"]
        headers = [(b":status", b"%d" % status), *self._owner.server_state.default_headers]
        for name, value in safe_headers(event.get("headers", ())):
            if name == b"connection":
                continue
            if name == b"content-length":
                self._length_left = int(value)
            headers.append((name, value.strip()))
        if event.get("trailers"):
            self._trailers = []
        self._bodyless = self.method == b"HEAD" or status in (204, 304)
        self._owner.conn.send_headers(self.stream_id, headers, end_stream=self._bodyless)

    async def _send_body(self, body: bytes) -> None:
        if self._length_left is not None:
            body = body[: self._length_left]
            self._length_left -= len(body)
        owner = self._owner
        view = memoryview(body)
        while view:
            await owner.writable.wait()
            if self._is_gone():
                return
            room = min(owner.conn.local_flow_control_window(self.stream_id), owner.conn.max_outbound_frame_size)
            if room <= 0:
                self.window.clear()
                self.stuck_since_s = owner.loop.time()
                owner.flush()
                await self.window.wait()
                self.stuck_since_s = 0.0
                continue
            owner.conn.send_data(self.stream_id, bytes(view[:room]))
            view = view[room:]
            owner.flush()
