"""Talk within a world."""

from __future__ import annotations

import asyncio
from collections import deque

from arena.models import Message

LONGEST_TEXT = 200  # characters
KEPT = 50  # messages of each world

_messages: dict[str, deque[Message]] = {}
_counts: dict[str, int] = {}
_waiting: dict[str, list[asyncio.Future[None]]] = {}


async def post(world: str, player: str, text: str) -> Message:
    """Say something to everybody in the world. Raises ValueError for an empty or overlong text."""
    text = text.strip()
    if not 0 < len(text) <= LONGEST_TEXT:
        raise ValueError(f"a message has 1 to {LONGEST_TEXT} characters")
    _counts[world] = _counts.get(world, 0) + 1
    message = Message(_counts[world], player, text)
    _messages.setdefault(world, deque(maxlen=KEPT)).append(message)
    for waiting in _waiting.pop(world, []):
        if not waiting.done():
            waiting.get_loop().call_soon_threadsafe(_wake, waiting)
    return message


async def recent(world: str, after: int = 0) -> tuple[Message, ...]:
    """The messages kept whose number is above ``after``, oldest first."""
    return tuple(message for message in _messages.get(world, ()) if message.number > after)


async def wait(world: str, after: int, timeout_s: float = 1.0) -> tuple[Message, ...]:
    """As ``recent``, but where there is nothing yet, wait for it; empty after ``timeout_s``."""
    messages = await recent(world, after)
    if messages:
        return messages
    waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    _waiting.setdefault(world, []).append(waiting)
    try:
        async with asyncio.timeout(timeout_s):
            await waiting
    except TimeoutError:
        return ()
    finally:
        if waiting in _waiting.get(world, ()):
            _waiting[world].remove(waiting)
    return await recent(world, after)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
