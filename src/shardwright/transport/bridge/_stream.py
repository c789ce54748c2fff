"""What a bridge knows of one stream."""

from __future__ import annotations

import os
from collections import deque

from shardwright.transport.bridge._ends import LocalEnd
from shardwright.transport.bridge._frames import Greeting, Shape


class Stream:
    """Both directions of one stream, seen from one side. ``end`` None: there is nothing to join it with.

    ``credit``: bytes that may still be sent; ``allowed``: bytes that the other side may still send; ``owed``: bytes that
    the local reader took since the other side was told.
    """

    __slots__ = (
        *("allowed", "always", "closed", "credit", "end", "generation", "got_end", "hung", "number", "owed", "polled"),
        *("polled_for", "sent_end", "shape", "told_stop", "waiting"),
    )

    def __init__(
        self,
        number: int,
        end: LocalEnd | None,
        shape: Shape,
        own: Greeting,
        peer: Greeting | None,
        *,
        opened_here: bool,
    ) -> None:
        self.number = number
        self.end = end
        self.shape = shape
        self.generation = 0
        self.credit = peer.window if peer is not None else 0
        self.allowed = own.window
        self.owed = 0
        # of a pipe, one direction is over from the start, and nobody says so
        silent = Shape.FROM_GUEST if opened_here else Shape.TO_GUEST
        deaf = Shape.TO_GUEST if opened_here else Shape.FROM_GUEST
        self.sent_end = shape is silent
        self.got_end = shape is deaf
        self.told_stop = False
        self.hung = False  # the local end is closed at its other side
        self.polled = False
        self.polled_for = 0
        self.always = False
        self.closed = False
        self.waiting: deque[tuple[memoryview, list[int]]] = deque()  # what came, for the local reader

    def put(self, data: bytes, descriptors: list[int]) -> None:
        self.waiting.append((memoryview(data), descriptors))

    def write(self) -> int:
        """Write what waits, as far as it goes now; how much. Raises OSError when nobody will read it."""
        total = 0
        if self.end is None or not self.end.writes:
            self.drop()
            return 0
        while self.waiting:
            data, descriptors = self.waiting[0]
            try:
                count = self.end.write(data, descriptors)
            except BlockingIOError:
                break
            for descriptor in descriptors:
                os.close(descriptor)
            total += count
            if count == len(data):
                self.waiting.popleft()
            else:
                self.waiting[0] = (data[count:], [])
        return total

    def drop(self) -> None:
        """Nobody will read what waits."""
        for _, descriptors in self.waiting:
            for descriptor in descriptors:
                os.close(descriptor)
        self.waiting.clear()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.drop()
            if self.end is not None:
                self.end.close()
