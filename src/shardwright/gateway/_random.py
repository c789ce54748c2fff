"""Random bytes in small pieces: asked of the kernel for many ids at once, for one system call each is what an id costs."""

from __future__ import annotations

import os

__all__ = ["random_bytes"]

_POOL_BYTES = 4096


class _Pool:
    """Bytes that were drawn and not yet given out; each is given out once."""

    __slots__ = ("_at", "_bytes")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget what was drawn: a process and its child must not give out the same."""
        self._bytes, self._at = b"", 0

    def take(self, count: int) -> bytes:
        start = self._at
        self._at = end = start + count
        if end > len(self._bytes):
            self._bytes, self._at = os.urandom(max(_POOL_BYTES, count)), count
            return self._bytes[:count]
        return self._bytes[start:end]


_pool = _Pool()
os.register_at_fork(after_in_child=_pool.clear)
random_bytes = _pool.take
"""``random_bytes(count)``: fit for ids that nobody may guess. For one thread (the gateway's loop) at a time."""
