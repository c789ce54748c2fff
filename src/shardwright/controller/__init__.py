"""How many shards to have ready. Pure decisions; see ``PoolPolicy``."""

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

__all__ = [
    "ComponentPool",
    "Evict",
    "KeepMinimum",
    "PoolAction",
    "PoolPolicy",
    "PoolState",
    "PooledShard",
    "Refill",
    "backoff_s",
]
