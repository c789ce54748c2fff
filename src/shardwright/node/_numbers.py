"""The node's numbers and its health, asked for together: what the composer knows, what the keeper sees, what shards say."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct

from shardwright.composition import ShardStatus
from shardwright.contracts.clock import Clock
from shardwright.errors import NodeError, SandboxError
from shardwright.guest import AskNode, Counts, NodeTold
from shardwright.model.ids import ShardId
from shardwright.model.manifest import Component
from shardwright.model.scope import ScopeKind
from shardwright.monitoring import CallCounts, Family, NodeMonitor, NodeNumbers, ShardNumbers, encode
from shardwright.node._port import ShardPort

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from shardwright.model.ids import ComponentName
    from shardwright.model.limits import Resources
    from shardwright.node._overview import Overview
    from shardwright.node._shards import Shards

FRESH_S = 0.2  # for so long numbers told to the gateway are fresh: whoever scrapes it wildly costs the node little
ANSWER_S = 0.25  # a shard that takes longer to tell its counts is told with those it gave before


class Health(Struct, frozen=True):
    """``alive``: the node can go on. ``ready``: it serves all that it should; else ``reasons`` say what lacks."""

    alive: bool
    ready: bool
    reasons: tuple[str, ...] = ()


class Numbers:
    """Asks for everything that is told. Use from the node's event loop alone."""

    def __init__(
        self,
        monitor: NodeMonitor,
        shards: Shards,
        components: Mapping[ComponentName, Component],
        scopes: Mapping[ComponentName, ScopeKind],
        capacity: Resources,
        sessions: Callable[[], int],
        clock: Clock,
    ) -> None:
        self.monitor = monitor
        self.state = "starting"  # starting, open, closing, failed
        self.failure = ""
        self.keeper_up: Callable[[], bool | None] = lambda: None
        self._shards = shards
        self._components = components
        self._scopes = scopes
        self._capacity = capacity
        self._sessions = sessions
        self._clock = clock
        self._requests = itertools.count(1)
        self._awaited: dict[tuple[ShardId, int], asyncio.Future[None]] = {}
        self._asking: asyncio.Task[None] | None = None
        self._since_s: dict[ShardId, float] = {}
        self._told = b""  # to the gateway, the last time
        self._told_s = float("-inf")

    def __repr__(self) -> str:
        return f"<Numbers of a node, {self.state}>"

    # -- what happens ------------------------------------------------------------------------------------------

    def began(self, port: ShardPort) -> None:
        self._since_s[port.shard] = self._clock.monotonic_s()

    def heard(self, port: ShardPort, counts: Counts) -> None:
        """A shard told its counts."""
        if port.shard in self._since_s:
            told = CallCounts(
                counts.received, counts.made, counts.refused, counts.failed, counts.running, counts.queued, counts.cpu_s
            )
            self.monitor.heard(port.shard, port.component, told)
        future = self._awaited.pop((port.shard, counts.request), None)
        if future is not None and not future.done():
            future.set_result(None)

    def ended(self, shard: ShardId) -> None:
        since_s = self._since_s.pop(shard, None)
        lived_s = 0.0 if since_s is None else self._clock.monotonic_s() - since_s
        self.monitor.forget(shard, lived_s * (self._capacity.cpu or 1.0))

    # -- health ------------------------------------------------------------------------------------------------

    def health(self) -> Health:
        """Whether the node can go on, and whether it serves all that it should."""
        keeper_up = self.keeper_up()
        if self.state == "failed" or keeper_up is False:
            return Health(False, False, (self.failure or "the keeper is gone",))
        if self.state != "open":
            return Health(True, False, (f"the node is {self.state}",))
        ready = {record.component for record in self._shards.composer.shards() if record.status is ShardStatus.READY}
        lacking = [
            name
            for name, component in self._components.items()
            if self._scopes.get(name) is ScopeKind.SHARED and component.scale.min > 0 and name not in ready
        ]
        return Health(True, not lacking, tuple(f"no shard of {name} is ready" for name in sorted(lacking)))

    # -- numbers -----------------------------------------------------------------------------------------------

    async def families(self) -> tuple[Family, ...]:
        """Everything as it is now. Who asks meanwhile is answered from the same look."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._ask(), name="ask shards for counts")
        await asyncio.shield(self._asking)
        composer, launcher = self._shards.composer, self._shards.launcher
        records = composer.shards()
        usages: Mapping[str, object] = {}
        if launcher is not None:
            try:
                usages = await launcher.usages([record.id for record in records])
            except (NodeError, SandboxError):
                usages = {}  # the keeper is gone: that is told
        shards = tuple(
            ShardNumbers(r.id, r.component, str(r.status), r.spare, r.limits, usages.get(r.id))  # type: ignore[arg-type]
            for r in records
        )
        return self.monitor.families(
            NodeNumbers(
                shards, self._sessions(), len(composer.queued()), self.health().ready, self.keeper_up(), self._capacity,
                composer.reserved(),
            )
        )  # fmt: skip

    async def tell(self, port: ShardPort, message: AskNode, overview: Overview) -> None:
        """Answer the gateway; a question about numbers that comes too soon after the last is answered as that was."""
        numbers = b""
        if message.numbers:
            now = self._clock.monotonic_s()
            if now - self._told_s >= FRESH_S:
                self._told = encode(await self.families())
                self._told_s = self._clock.monotonic_s()
            numbers = self._told
        status = await overview.json() if message.status else b""
        health = self.health()
        port.told(NodeTold(message.request, health.alive, health.ready, health.reasons, numbers, status))

    async def _ask(self) -> None:
        await self.ask(list(self._shards.ports), ANSWER_S)

    async def ask(self, shards: Iterable[ShardId], timeout_s: float) -> None:
        """Have these shards tell their counts; who takes longer than that is counted as it was before."""
        loop = asyncio.get_running_loop()
        asked: list[asyncio.Future[None]] = []
        keys: list[tuple[ShardId, int]] = []
        for shard in shards:
            port = self._shards.ports.get(shard)
            if port is None or shard not in self._since_s:
                continue
            key = (shard, next(self._requests))
            self._awaited[key] = future = loop.create_future()
            asked.append(future)
            keys.append(key)
            port.ask_counts(key[1])
        if asked:
            await asyncio.wait(asked, timeout=timeout_s)
        for key in keys:
            self._awaited.pop(key, None)
