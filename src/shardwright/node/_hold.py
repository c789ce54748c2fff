"""Running shards stopped and let go on, and held to processors, at people's word: journalled, and read back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import TypeVar

from shardwright import sandbox
from shardwright.composition import ShardRecord
from shardwright.errors import NodeError
from shardwright.model.ids import ShardId
from shardwright.node._api_messages import Unusable
from shardwright.node._core import Core
from shardwright.node._resize import targets

Found = TypeVar("Found")


async def pause(core: Core, target: str) -> tuple[ShardId, ...]:
    """Raises NodeError: an unknown target, or one that has no process of its own. Calls wait, and their deadlines run."""
    return tuple(await _each(core, target, "pause", "stopped on request", sandbox.pause))


async def unpause(core: Core, target: str) -> tuple[ShardId, ...]:
    """Raises NodeError as ``pause`` does."""
    return tuple(await _each(core, target, "unpause", "let go on, on request", sandbox.unpause))


async def pin(core: Core, target: str, cpus: Collection[int]) -> dict[ShardId, frozenset[int]]:
    """Raises NodeError as ``pause`` does, and SandboxError for processors that this node may not use."""
    wanted = frozenset(cpus)
    if not wanted:
        raise Unusable("no processor is named", remedy="name at least one")
    names = ",".join(map(str, sorted(wanted)))
    return await _each(
        core, target, "pin", f"held to processors {names} on request", lambda pid: sandbox.pin(pid, wanted)
    )


async def _each(core: Core, target: str, kind: str, reason: str, do: Callable[[int], Found]) -> dict[ShardId, Found]:
    found: dict[ShardId, Found] = {}
    for record in targets(core, target):
        found[record.id] = await asyncio.to_thread(do, _pid(core, record))
        core.record(kind, reason, shard=record.id, component=record.component)
    return found


def _pid(core: Core, record: ShardRecord) -> int:
    if not (core.shards.launcher is not None and core.shards.launcher.isolation(record.component)):
        raise NodeError(
            f"{record.id} runs in the node's own process", remedy="start the node without --inproc for that"
        )
    return core.ports()[record.id].pid
