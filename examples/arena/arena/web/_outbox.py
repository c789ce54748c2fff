"""What one browser is still to be sent. Whoever fills it never waits for whoever empties it."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import Any

MOST_LINES = 200


def encode(message: dict[str, Any]) -> str:
    """The message as it travels."""
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False)


class Outbox:
    """Lines in their order, and the newest frame: a browser that is slow misses frames, and delays nobody else's."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque()
        self._frame: str | None = None
        self._filled = asyncio.Event()
        self.overflowed = False

    def frame(self, text: str) -> None:
        """Send this frame instead of one that still waits."""
        self._frame = text
        self._filled.set()

    def line(self, text: str) -> None:
        """Send this after the lines before it; a browser with too many waiting is given up."""
        if len(self._lines) >= MOST_LINES:
            self.overflowed = True
        else:
            self._lines.append(text)
        self._filled.set()

    def drop_frame(self) -> None:
        """Forget the frame that waits: it shows a world that the player has left."""
        self._frame = None

    async def next(self) -> str | None:
        """The next text to send, lines first; None when there were too many of them."""
        while True:
            if self.overflowed:
                return None
            if self._lines:
                return self._lines.popleft()
            if self._frame is not None:
                text, self._frame = self._frame, None
                return text
            self._filled.clear()
            await self._filled.wait()
