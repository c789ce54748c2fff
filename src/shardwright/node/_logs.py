"""What user code printed and logged, collected from the shards' log pipes and tagged by shard and session."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections import deque
from collections.abc import Callable, Container
from dataclasses import dataclass

MARK, SPLIT = b"\x1e", b"\x1f"
MAX_LINE = 64 * 1024


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line. ``stream`` is stdout, stderr, log, or raw for what was written straight to the descriptor."""

    sequence: int
    wall_s: float
    shard: str
    stream: str
    text: str
    session: str = ""
    level: str = ""
    logger: str = ""
    partial: bool = False


class Logs:
    """Keeps the last ``capacity`` lines of all shards, and tells whoever subscribed. Use from the node's loop.

    ``session_name`` gives the name of a session that a shard serves, empty for any other: a tag is the shard's own word.
    """

    def __init__(self, session_name: Callable[[str, int], str], capacity: int = 20_000) -> None:
        self._lines: deque[LogLine] = deque(maxlen=capacity)
        self._session_name = session_name
        self._sequence = itertools.count(1)
        self._subscribers: list[Callable[[LogLine], None]] = []
        self._pipes: dict[int, tuple[str, bytearray]] = {}
        self._last: dict[str, deque[str]] = {}

    def pipe(self, shard: str) -> int:
        """A new pipe for that shard; returns the writing end, the caller's to pass on and close."""
        read, write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(read, False)
        self._pipes[read] = (shard, bytearray())
        asyncio.get_running_loop().add_reader(read, self._readable, read)
        return write

    def since(self, sequence: int = 0, *, shard: str = "", session: str = "") -> list[LogLine]:
        """Kept lines after that sequence number, of that shard (or component) and session alone where given."""
        return [line for line in self._lines if line.sequence > sequence and matches(line, shard, session)]

    def last_lines(self, shard: str) -> tuple[str, ...]:
        return tuple(self._last.get(shard, ()))

    def forget(self, shard: str) -> None:
        self._last.pop(shard, None)

    def subscribe(self, callback: Callable[[LogLine], None]) -> Callable[[], None]:
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    def drain(self, shards: Container[str] | None = None) -> None:
        """Read what is there now, of all shards or of those alone."""
        for read, (shard, _) in list(self._pipes.items()):
            if shards is None or shard in shards:
                self._readable(read)

    def close(self) -> None:
        self.drain()
        for read in list(self._pipes):
            self._drop(read)

    def _readable(self, read: int) -> None:
        shard, buffer = self._pipes[read]
        for _ in range(16):  # then the others' turn
            try:
                chunk = os.read(read, 65536)
            except BlockingIOError:
                return
            except OSError:
                chunk = b""
            if not chunk:
                if buffer:
                    self._line(shard, bytes(buffer))
                self._drop(read)
                return
            buffer += chunk
            *lines, rest = bytes(buffer).split(b"\n")
            buffer[:] = rest
            for line in lines:
                self._line(shard, line)
            if len(buffer) > MAX_LINE:  # a line without end must not fill our memory
                self._line(shard, bytes(buffer))
                buffer.clear()

    def _drop(self, read: int) -> None:
        asyncio.get_running_loop().remove_reader(read)
        os.close(read)
        del self._pipes[read]

    def _line(self, shard: str, raw: bytes) -> None:
        stream, session, level, logger, partial = "raw", "", "", "", False
        if raw.startswith(MARK) and SPLIT in raw:
            head, _, rest = raw[1:].partition(SPLIT)
            try:
                tag = json.loads(head)
                stream = str(tag.get("o", "raw"))[:16]
                session = self._session_name(shard, tag["s"]) if isinstance(tag.get("s"), int) else ""
                level, logger = str(tag.get("l", ""))[:16], str(tag.get("n", ""))[:128]
                partial = bool(tag.get("p"))
                raw = rest
            except (ValueError, AttributeError, RecursionError):
                pass  # a forged tag is just text
        text = raw.decode("utf-8", "backslashreplace")
        line = LogLine(next(self._sequence), time.time(), shard, stream, text, session, level, logger, partial)
        self._lines.append(line)
        self._last.setdefault(shard, deque(maxlen=20)).append(text)
        for subscriber in list(self._subscribers):
            subscriber(line)


def matches(line: LogLine, shard: str, session: str) -> bool:
    """``shard`` may be a shard's id or a component's name."""
    of_shard = not shard or line.shard == shard or line.shard.rpartition("-")[0] == shard
    return of_shard and (not session or line.session == session)
