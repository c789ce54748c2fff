"""The bytes of calls that were admitted and not yet read: bounded, for a queue that counts calls bounds no memory."""

from __future__ import annotations

import threading
from collections import Counter

from shardwright.errors import Overloaded
from shardwright.model.ids import ShardId
from shardwright.transport import CodecLimits

MOST_BYTES = 256 * 1024 * 1024
ITEM_BYTES = 64  # what an item of a message is worth (see ``WEIGHT`` in the codec)
SMALL_BYTES = 4096  # calls of fewer bytes are bounded well enough by their number


def most_bytes(ceiling_bytes: int | None) -> int:
    """What may wait in a shard of that memory ceiling: a quarter of it, 256 MiB at most."""
    return MOST_BYTES if ceiling_bytes is None else min(MOST_BYTES, ceiling_bytes // 4)


def limits_within(ceiling_bytes: int | None) -> CodecLimits | None:
    """What one message may come to, once read, in a shard of that memory ceiling: about a quarter of it as well."""
    usual = CodecLimits()
    if ceiling_bytes is None:
        return None
    return CodecLimits(usual.max_bytes, usual.max_depth, min(usual.max_items, ceiling_bytes // 4 // ITEM_BYTES))


class KeptBytes:
    """What waits, by call and by caller. One caller has at most half, and a call that finds nothing waiting is always
    taken, whatever its size."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._mutex = threading.Lock()
        self._calls: dict[object, tuple[ShardId, int]] = {}
        self._callers: Counter[ShardId] = Counter()
        self.total = 0

    def __repr__(self) -> str:
        return f"<KeptBytes of {self._name}: {self.total} of {self._most} in {len(self._calls)} calls>"

    def take(self, call: object, caller: ShardId, size: int) -> None:
        """Count a call until ``give``. Raises Overloaded; then it is not counted."""
        if size < SMALL_BYTES:
            return
        with self._mutex:
            mine = self._callers[caller]
            if (self.total and self.total + size > self._most) or (mine and mine + size > self._most // 2):
                raise Overloaded(
                    f"{self._name}: calls of {self.total >> 20} MiB already wait, {mine >> 20} MiB of them from {caller}, "
                    f"and this one has {size >> 20} MiB (at most {self._most >> 20} MiB wait, half of them from one caller)",
                    remedy="slow the callers down, send less at once, or raise the memory limit or `scale.max`",
                )
            self._calls[call] = caller, size
            self._callers[caller] += size
            self.total += size

    def give(self, call: object) -> None:
        """The call's message is kept no longer. May be called again."""
        if call not in self._calls:
            return
        with self._mutex:
            caller, size = self._calls.pop(call, (ShardId(""), 0))
            self.total -= size
            self._callers[caller] -= size
            if self._callers[caller] <= 0:
                del self._callers[caller]
