"""One shard as people see it."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from shardwright.model.ids import ComponentName, ShardId
from shardwright.model.limits import Usage


class ShardStatus(Struct, frozen=True):
    """One shard as ``ps`` shows it."""

    id: ShardId
    component: ComponentName
    status: str
    pid: int
    scope: str
    key: str | None
    sessions: tuple[str, ...]
    start: str
    isolation: str
    transport: str
    guarantee_cpu: float | None
    guarantee_memory_bytes: int | None
    ceiling_cpu: float | None
    ceiling_memory_bytes: int | None
    usage: Usage | None
    age_s: float


def shard_object(status: ShardStatus) -> dict[str, Any]:
    """The same in JSON types."""
    found: dict[str, Any] = msgspec.to_builtins(status)
    return found
