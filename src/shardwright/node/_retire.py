"""Taking a shard out of use without losing a call: nobody begins one there any more, what runs ends, then it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from shardwright.guest import Retire
from shardwright.model.ids import ComponentName, SessionNumber, ShardId

if TYPE_CHECKING:
    from shardwright.node._core import Core

DRAIN_S = 30.0  # for calls that run in a shard that is taken out
LOOK_S = 0.01


async def take_out(core: Core, shard: ShardId) -> list[SessionNumber]:
    """Nobody is given it any more, and nobody holds it; the sessions that did."""
    composer, now = core.shards.composer, core.shards.now
    sessions: list[SessionNumber] = []
    while True:
        sessions += composer.supersede(shard, now())
        record = composer.shard(shard)
        if record is None or not record.held:
            return sessions
        await asyncio.sleep(LOOK_S)


def tell_callers(core: Core, component: ComponentName, shard: ShardId, client: Callable[[ShardId, bool], None]) -> None:
    """From now on callers use another; no state is lost. ``client`` tells the node's own process."""
    for port in list(core.ports().values()):
        port.tell(Retire(component, shard))
    client(shard, False)
    core.shards.freed()
