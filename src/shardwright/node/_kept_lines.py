"""The lines that a node keeps: bounded in memory, and shared so fairly that one writer never takes all of it.

While it runs a shard is a writer of its own; what ended shards left is one writer for each component. When there is no
room, whoever has more than an equal part gives up its oldest lines.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from operator import attrgetter
from typing import Generic, Protocol, TypeVar

KEPT_BYTES = 32 * 1024 * 1024  # as Python holds them, all writers together
LINE_BYTES = 512  # a line's object, its number, time, short names and place in a queue


class Line(Protocol):
    """What is kept: everything else about a line is short."""

    @property
    def sequence(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def logger(self) -> str: ...


L = TypeVar("L", bound=Line)


class KeptLines(Generic[L]):
    """At most ``capacity`` lines that take at most ``limit_bytes``; iterating gives them in the order of ``sequence``.

    One thread appends; any may iterate.
    """

    def __init__(self, capacity: int, limit_bytes: int = KEPT_BYTES) -> None:
        self._capacity = capacity
        self._limit_bytes = limit_bytes
        self._writers: dict[str, deque[L]] = {}
        self._held: dict[str, int] = {}  # bytes by writer
        self._count = 0
        self.held_bytes = 0

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<KeptLines {self._count} of {len(self._writers)} writers, {self.held_bytes} bytes>"

    def __iter__(self) -> Iterator[L]:
        # Each copy is made in one go, for the interpreter's lock is kept meanwhile; what goes to an heir between two of
        # them is seen twice, and told once.
        found = {line.sequence: line for lines in list(self._writers.values()) for line in list(lines)}
        return iter(sorted(found.values(), key=attrgetter("sequence")))

    def append(self, line: L, writer: str) -> None:
        """Keep ``line``; older ones may give way, and a line that is larger than everything at once."""
        self._writers.setdefault(writer, deque()).append(line)
        self._add(writer, _size(line))
        self._count += 1
        while self._count > self._capacity or self.held_bytes > self._limit_bytes:
            part = self.held_bytes / len(self._writers)
            held = self._held
            self._drop_oldest(writer if held.get(writer, 0) >= part else max(held, key=held.__getitem__))

    def ended(self, writer: str, heir: str) -> None:
        """``writer`` writes no more: its lines share ``heir``'s part from now on."""
        lines = self._writers.get(writer)
        if lines is not None:
            # before they go: who iterates finds them here or there
            self._writers.setdefault(heir, deque()).extend(lines)
            del self._writers[writer]
            self._held[heir] = self._held.get(heir, 0) + self._held.pop(writer)

    def _add(self, writer: str, size: int) -> None:
        self._held[writer] = self._held.get(writer, 0) + size
        self.held_bytes += size

    def _drop_oldest(self, writer: str) -> None:
        lines = self._writers[writer]
        self._add(writer, -_size(lines.popleft()))
        self._count -= 1
        if not lines:
            del self._writers[writer], self._held[writer]


def _size(line: Line) -> int:
    return LINE_BYTES + sys.getsizeof(line.text) + sys.getsizeof(line.logger)
