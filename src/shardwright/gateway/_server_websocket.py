"""WebSockets as uvicorn speaks them, taking from a client no more than the application has asked for."""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

__all__ = ["WebSocketProtocol"]

_BITE = 4096
"""Bytes that are parsed at once: a read of 256 KiB may hold forty thousand empty messages."""


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._held = b""

    def data_received(self, data: bytes) -> None:
        data, self._held = self._held + data, b""
        while data:
            bite, data = data[:_BITE], data[_BITE:]
            super().data_received(bite)
            if self.transport.is_closing():
                return
            if self.read_paused and data:
                self._held = data
                return

    async def receive(self) -> Any:
        message = await super().receive()
        if self._held and not self.read_paused:
            self.data_received(b"")
        return message
