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

from msgspec import Struct

from shardwright.node._kept_lines import KeptLines

MARK, SPLIT = b"\x1e", b"\x1f"
MAX_LINE = 64 * 1024  # bytes before, characters after what is no text was escaped
READ_BYTES, READS, READ_LINES = 16 * 1024, 16, 2000  # of one shard in one turn of the loop; the rest waits in its pipe
LAST_LINES, LAST_LINE = 20, 2000  # of a shard, kept apart for the report of its end; characters
TRACE = re.compile("[0-9a-f]{32}")


_TEMPLATE = re.compile(r"template-([a-z][a-z0-9_]*)(-\d+)?")


def component_of(shard: str) -> str:
    """The component of a shard, or of the template that its shards are forked from."""
    template = _TEMPLATE.fullmatch(shard)
    return template[1] if template else shard.rpartition("-")[0]


class LogLine(Struct, frozen=True):
    """One line. ``stream`` is stdout, stderr, log, or raw for what was written straight to descriptor 1.

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
        return component_of(self.shard)


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
        self._pipes: dict[int, tuple[str, bytearray, str]] = {}  # reading end -> whose, what came, of which stream
        self._reads: dict[str, list[int]] = {}
        self._last: dict[str, deque[str]] = {}

    def pipe(self, shard: str, stream: str = "raw") -> int:
        """A new pipe for that shard; returns the writing end, the caller's to pass on and close.

        ``stream`` is that of lines without a tag.
        """
        read, write = os.pipe2(os.O_CLOEXEC)
        os.fchmod(write, 0o622)  # a shard that is another user may open /dev/stdout, too
        os.set_blocking(read, False)
        self._pipes[read] = (shard, bytearray(), stream)
        self._reads.setdefault(shard, []).append(read)
        asyncio.get_running_loop().add_reader(read, self._readable, read)
        return write

    def pipes(self, shard: str) -> tuple[int, int]:
        """Writing ends for descriptors 1 and 2 of that shard."""
        output = self.pipe(shard)
        try:
            return output, self.pipe(shard, "stderr")
        except BaseException:
            os.close(output)
            raise

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
        for read in list(self._pipes) if shards is None else [r for s in shards for r in self._reads.get(s, ())]:
            self._read(read)

    def close(self) -> None:
        self.drain()
        for read in list(self._pipes):
            self._drop(read)

    def _readable(self, read: int) -> None:
        self._read(read, READ_LINES)

    def _read(self, read: int, enough: int | None = None) -> None:
        shard, buffer, stream = self._pipes[read]
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
                    self._line(shard, bytes(buffer), stream)
                self._drop(read)
                if shard not in self._reads:
                    self._lines.ended(shard, component_of(shard))
                return
            buffer += chunk
            *lines, rest = bytes(buffer).split(b"\n")
            buffer[:] = rest
            found += len(lines)
            for line in lines:
                self._line(shard, line, stream)
            if len(buffer) > MAX_LINE:  # a line without end must not fill our memory
                whole = _characters(buffer)
                self._line(shard, bytes(buffer[:whole]), stream, goes_on=True)
                del buffer[:whole]

    def _drop(self, read: int) -> None:
        asyncio.get_running_loop().remove_reader(read)
        os.close(read)
        shard = self._pipes.pop(read)[0]
        self._reads[shard].remove(read)
        if not self._reads[shard]:
            del self._reads[shard]

    def _line(self, shard: str, raw: bytes, stream: str, goes_on: bool = False) -> None:
        session, level, logger, partial, trace = "", "", "", goes_on, ""
        if raw.startswith(MARK) and SPLIT in raw:
            head, _, rest = raw[1:].partition(SPLIT)
            try:
                tag = json.loads(head)
                stream = str(tag.get("o", stream))[:16]
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
