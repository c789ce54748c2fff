"""WebSockets as uvicorn speaks them, taking from a client no more than the application has asked for.

Most WebSockets are idle, and there are many: what an idle one holds is made small (asyncio's Queue and Event cost 3 KiB).
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from shardwright.gateway._server_connection import Watched

__all__ = ["WebSocketProtocol"]

_BITE = 4096
"""Bytes that are parsed at once: a read of 256 KiB may hold forty thousand empty messages."""


class _Inbox:
    """What ``asyncio.Queue`` offers uvicorn here, for one reader."""

    __slots__ = ("_items", "_waiter")

    def __init__(self) -> None:
        self._items: list[Any] = []
        self._waiter: asyncio.Future[None] | None = None

    def empty(self) -> bool:
        return not self._items

    def put_nowait(self, item: Any) -> None:
        self._items.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self) -> Any:
        while not self._items:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._items.pop(0)  # no longer than what one bite holds


class _Gate:
    """What ``asyncio.Event`` offers uvicorn here; nearly always open."""

    __slots__ = ("_shut",)

    def __init__(self) -> None:
        self._shut: asyncio.Event | None = None

    def set(self) -> None:
        if self._shut is not None:
            self._shut.set()
            self._shut = None

    def clear(self) -> None:
        if self._shut is None:
            self._shut = asyncio.Event()

    async def wait(self) -> None:
        if self._shut is not None:
            await self._shut.wait()


class WebSocketProtocol(Watched, WebSocketsSansIOProtocol):
    """One WebSocket."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.queue = _Inbox()  # type: ignore[assignment]
        self.writable = _Gate()  # type: ignore[assignment]
        self._held = b""

    def data_received(self, data: bytes) -> None:
        data, self._held = self._held + data, b""
        while data:
            if self.handshake_initiated and not self.handshake_complete:
                self._wait_for_acceptance(data)
                return
            bite, data = data[:_BITE], data[_BITE:]
            super().data_received(bite)
            if self.transport.is_closing():
                return
            if self.read_paused and data:
                self._held = data
                return

    def _wait_for_acceptance(self, data: bytes) -> None:
        """A client should not speak before it was answered (RFC 6455, 4.1); uvicorn would answer a ping before that."""
        self._held = data
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def sweep(self, now_s: float) -> None:
        """End one whose client reads nothing of what it is sent."""
        if self.stuck_since_s and now_s - self.stuck_since_s > self.config.timeout_keep_alive:
            self.transport.abort()

    async def receive(self) -> Any:
        message = await super().receive()
        if self._held and not self.read_paused:
            self.data_received(b"")
        return message

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.accept":
            # Heads that nobody looks at again: the front has passed them on.
            self.request = self.response = None  # type: ignore[assignment]
            self.scope.clear()  # type: ignore[attr-defined]
            if self._held and not self.transport.is_closing():
                self.transport.resume_reading()
                self.data_received(b"")
