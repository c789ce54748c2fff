"""Lines on their way to followers, and what a line of logs or events is in JSON types."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import Iterable
from typing import Any

import msgspec

from shardwright.node._api_values import readable
from shardwright.node._logs import LogLine
from shardwright.telemetry import RecordedEvent

END = b'{"ok":true,"end":true}\n'
FOLLOWER_BYTES = 4 * 1024 * 1024  # of text on its way to one follower, as Python holds it


class Follower:
    """Lines on their way to one follower: first what was kept, then what happens, of which the oldest give way."""

    def __init__(self, room: int, kept: Iterable[dict[str, Any]] = ()) -> None:
        self._room = room
        self.kept = deque(kept)
        self.queue: deque[dict[str, Any]] = deque()
        self._held_bytes = 0
        self.lost = 0
        self.filled = asyncio.Event()

    def put(self, line: dict[str, Any]) -> None:
        self._held_bytes += _size(line)
        while self.queue and (len(self.queue) >= self._room or self._held_bytes > FOLLOWER_BYTES):
            self.take()
            self.lost += 1
        self.queue.append(line)
        self.filled.set()

    def take(self) -> dict[str, Any]:
        line = self.queue.popleft()
        self._held_bytes -= _size(line)
        return line


def _size(line: dict[str, Any]) -> int:
    return sum(sys.getsizeof(value) for value in line.values() if isinstance(value, str))


async def send(follower: Follower, writer: asyncio.StreamWriter) -> None:
    while True:
        while follower.kept or follower.queue or follower.lost:
            if follower.kept:
                writer.write(line_of(follower.kept.popleft()))
            elif follower.lost:
                lost, follower.lost = follower.lost, 0
                writer.write(msgspec.json.encode({"ok": True, "lost": lost}) + b"\n")
            else:
                writer.write(line_of(follower.take()))
            await writer.drain()
        follower.filled.clear()
        await follower.filled.wait()


async def gone(reader: asyncio.StreamReader) -> None:
    """Returns when the follower has hung up, or says anything: it has nothing to say."""
    with contextlib.suppress(OSError):
        await reader.read(1)


def line_of(line: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"ok": True, "line": line}) + b"\n"


def log_object(line: LogLine) -> dict[str, Any]:
    return {
        "sequence": line.sequence, "wall_s": line.wall_s, "shard": line.shard, "stream": line.stream, "text": line.text,
        "session": line.session, "level": line.level, "logger": line.logger, "partial": line.partial,
        "component": line.component, "trace_id": line.trace,
    }  # fmt: skip


def event_object(recorded: RecordedEvent) -> dict[str, Any]:
    event = recorded.event
    return {
        "sequence": recorded.sequence, "wall_s": event.wall_s, "kind": event.kind, "message": event.message,
        "shard": event.shard or "", "session": event.session or "", "component": event.component or "",
        "attributes": _attributes(event.attributes),
    }  # fmt: skip


def _attributes(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {name: readable(value) for name, value in pairs}
