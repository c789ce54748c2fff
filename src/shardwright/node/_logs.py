"""What user code printed and logged, collected from the shards' log pipes and tagged by shard and session."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from shardwright.node._kept_lines import KeptLines

MARK, SPLIT = b"\x1e", b"\x1f"
MAX_LINE = 64 * 1024  # bytes before, characters after what is no text was escaped
READ_BYTES, READS, READ_LINES = 16 * 1024, 16, 2000  # of one shard in one turn of the loop; the rest waits in its pipe
LAST_LINES, LAST_LINE = 20, 2000  # of a shard, kept apart for the report of its end; characters
TRACE = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line. ``stream`` is stdout, stderr, log, or raw for what was written straight to the descriptor.

    ``trace`` is that of the call that wrote it (hexadecimal), as the shard says; empty for what no call wrote.
    """

    sequence: int
    wall_s: float
    shard: str
    stream: str
    text: str
    session: str = ""
    level: str = ""
    logger: str = ""
    partial: bool = False
    trace: str = ""

    @property
    def component(self) -> str:
        return self.shard.rpartition("-")[0]


class Logs:
    """Keeps the last ``capacity`` lines of all shards, and tells whoever subscribed. Use from the node's loop.

    What is kept is bounded in bytes too, and a shard that writes much displaces its own lines, not those of others
    (``KeptLines``). It is read a bounded piece at a time; when it writes faster, its full pipe makes it wait.
    ``session_name`` gives the name of a session that a shard serves, empty for any other: a tag is the shard's own word.
    ``conceal`` takes secrets out of each line before anybody sees it.
    """

    def __init__(
        self,
        session_name: Callable[[str, int], str],
        capacity: int = 20_000,
        *,
        conceal: Callable[[str], str] = lambda text: text,
    ) -> None:
        self._conceal = conceal
        self._lines: KeptLines[LogLine] = KeptLines(capacity)
        self._session_name = session_name
        self._sequence = itertools.count(1)
        self._subscribers: list[Callable[[LogLine], None]] = []
        self._pipes: dict[int, tuple[str, bytearray]] = {}
        self._reads: dict[str, int] = {}
        self._last: dict[str, deque[str]] = {}

    def pipe(self, shard: str) -> int:
        """A new pipe for that shard; returns the writing end, the caller's to pass on and close."""
        read, write = os.pipe2(os.O_CLOEXEC)
        os.fchmod(write, 0o622)  # a shard that is another user may open /dev/stdout, too
        os.set_blocking(read, False)
        self._pipes[read] = (shard, bytearray())
        self._reads[shard] = read
        asyncio.get_running_loop().add_reader(read, self._readable, read)
        return write

    def since(self, sequence: int = 0, *, shard: str = "", session: str = "", trace: str = "") -> list[LogLine]:
        """Kept lines after that sequence number, of that shard (or component), session and trace alone where given."""
        return [line for line in self._lines if line.sequence > sequence and matches(line, shard, session, trace)]

    def last_lines(self, shard: str) -> tuple[str, ...]:
        return tuple(self._last.get(shard, ()))

    def forget(self, shard: str) -> None:
        self._last.pop(shard, None)

    def subscribe(self, callback: Callable[[LogLine], None]) -> Callable[[], None]:
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    def drain(self, shards: Iterable[str] | None = None) -> None:
        """Read what is there now, of all shards or of those alone."""
        for read in list(self._pipes) if shards is None else [self._reads[s] for s in shards if s in self._reads]:
            self._read(read)

    def close(self) -> None:
        self.drain()
        for read in list(self._pipes):
            self._drop(read)

    def _readable(self, read: int) -> None:
        self._read(read, READ_LINES)

    def _read(self, read: int, enough: int | None = None) -> None:
        shard, buffer = self._pipes[read]
        found = 0
        for _ in range(READS):  # then the others' turn
            if enough is not None and found >= enough:
                return
            try:
                chunk = os.read(read, READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                chunk = b""
            if not chunk:
                if buffer:
                    self._line(shard, bytes(buffer))
                self._drop(read)
                self._lines.ended(shard, shard.rpartition("-")[0])
                return
            buffer += chunk
            *lines, rest = bytes(buffer).split(b"\n")
            buffer[:] = rest
            found += len(lines)
            for line in lines:
                self._line(shard, line)
            if len(buffer) > MAX_LINE:  # a line without end must not fill our memory
                whole = _characters(buffer)
                self._line(shard, bytes(buffer[:whole]), goes_on=True)
                del buffer[:whole]

    def _drop(self, read: int) -> None:
        asyncio.get_running_loop().remove_reader(read)
        os.close(read)
        shard, _ = self._pipes.pop(read)
        if self._reads.get(shard) == read:
            del self._reads[shard]

    def _line(self, shard: str, raw: bytes, goes_on: bool = False) -> None:
        stream, session, level, logger, partial, trace = "raw", "", "", "", goes_on, ""
        if raw.startswith(MARK) and SPLIT in raw:
            head, _, rest = raw[1:].partition(SPLIT)
            try:
                tag = json.loads(head)
                stream = str(tag.get("o", "raw"))[:16]
                session = self._session_name(shard, tag["s"]) if isinstance(tag.get("s"), int) else ""
                level, logger = str(tag.get("l", ""))[:16], str(tag.get("n", ""))[:128]
                partial = goes_on or bool(tag.get("p"))
                trace = found if TRACE.fullmatch(found := str(tag.get("t", ""))) else ""
                raw = rest
            except (ValueError, AttributeError, RecursionError):
                pass  # a forged tag is just text
        escaped = self._conceal(raw.decode("utf-8", "backslashreplace"))
        for start in range(0, max(1, len(escaped)), MAX_LINE):
            text, more = escaped[start : start + MAX_LINE], start + MAX_LINE < len(escaped)
            line = LogLine(
                next(self._sequence), time.time(), shard, stream, text, session, level, logger, partial or more, trace
            )  # fmt: skip
            self._lines.append(line, shard)
            self._last.setdefault(shard, deque(maxlen=LAST_LINES)).append(text[:LAST_LINE])
            for subscriber in list(self._subscribers):
                subscriber(line)


def _characters(data: bytearray) -> int:
    """The length of ``data`` without the beginning of a UTF-8 character at its end."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            return len(data) - back if back < 2 + (byte >= 0xE0) + (byte >= 0xF0) else len(data)
        if byte < 0x80:
            break
    return len(data)


def matches(line: LogLine, shard: str, session: str, trace: str = "") -> bool:
    """``shard`` may be a shard's id or a component's name; ``trace`` the beginning of an id."""
    of_shard = not shard or line.shard == shard or line.component == shard
    return of_shard and (not session or line.session == session) and line.trace.startswith(trace.lower())
