"""What looking at a program saw of each function, and what each was called within."""

from __future__ import annotations

from types import CodeType
from typing import Any


class Looked:
    """What was seen of one function."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls = self.sampled = self.request_bytes = self.result_bytes = self.shadowed = 0
        self.encode_s = 0.0
        self.unsent = 0
        self.why_unsent = ""
        self.total_s = 0.0  # of all calls, but those within one of its own
        self.look_s = 0.0
        self.inside = False
        self.short = False  # no longer seen
        self.veto = ""
        self.codes: set[CodeType] = set()
        self.first: set[CodeType] = set()  # what the first call ran
        self.streams = False  # a generator function, or one that returns a generator: its work is done after the call
        self.streamed_s = 0.0  # what running ``shadowed`` of those to their end took

    def refuse(self, why: str) -> None:
        self.veto = self.veto or why

    def told(self) -> list[Any]:
        return [
            self.name, self.calls, self.sampled, self.request_bytes, self.result_bytes, self.encode_s, self.total_s,
            self.veto, self.shadowed, self.short, self.streams, self.streamed_s,
        ]  # fmt: skip


class Around:
    """Calls of one function within those of others, from the outermost on."""

    __slots__ = ("calls", "inner", "looked", "total_s")

    def __init__(self, looked: Looked | None) -> None:
        self.looked = looked
        self.calls = 0
        self.total_s = 0.0
        self.inner: dict[Looked, Around] = {}

    def told(self) -> list[list[Any]]:
        """Rows of function, number of the row around it (-1: none), calls, seconds."""
        rows: list[list[Any]] = []
        todo = [(self, -1)]
        while todo:
            around, number = todo.pop()
            if around.looked is not None:
                rows.append([around.looked.name, number, around.calls, around.total_s])
                number = len(rows) - 1
            todo += [(inner, number) for inner in around.inner.values()]
        return rows
