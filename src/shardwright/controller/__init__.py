"""What a node should have ready, and give to whom. Pure decisions: functions of (state, now).

What works on arrays of all components or shards at once (``SpareParams``, ``choose_windows``, ...) needs numpy, and is
imported when it is first used: a node that only keeps minima does without.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shardwright.controller._pool import (
    ComponentPool,
    Evict,
    KeepMinimum,
    PoolAction,
    PooledShard,
    PoolPolicy,
    PoolState,
    Refill,
    backoff_s,
)

if TYPE_CHECKING:
    from shardwright.controller._spares import MOST_SPARES, KeepAlive, SpareParams, bucket, drop_at, needs, worth_keeping
    from shardwright.controller._windows import Windows, choose_windows

__all__ = [
    "MOST_SPARES",
    "bucket",
    "needs",
    "ComponentPool",
    "Evict",
    "KeepAlive",
    "KeepMinimum",
    "PoolAction",
    "PoolPolicy",
    "PoolState",
    "PooledShard",
    "Refill",
    "SpareParams",
    "Windows",
    "backoff_s",
    "choose_windows",
    "drop_at",
    "worth_keeping",
]

_LATER = {
    "SpareParams": "_spares",
    "drop_at": "_spares",
    "KeepAlive": "_spares",
    "bucket": "_spares",
    "needs": "_spares",
    "MOST_SPARES": "_spares",
    "worth_keeping": "_spares",
    "Windows": "_windows",
    "choose_windows": "_windows",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"shardwright.controller.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
