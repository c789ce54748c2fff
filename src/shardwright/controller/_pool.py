"""The WarmPool's policy: how many shards to keep ready before anybody asks. Pure: (state, now) -> actions."""

from __future__ import annotations

from typing import Protocol, TypeAlias

from msgspec import Struct

from shardwright.model.ids import ComponentName, ShardId
from shardwright.model.limits import Limits, Resources
from shardwright.model.manifest import Component
from shardwright.model.scope import ScopeKind
from shardwright.placement import Capacity


class PooledShard(Struct, frozen=True):
    """A shard that nobody holds. ``ready`` is false while it starts; ``idle_since_s`` is when it was last let go."""

    id: ShardId
    ready: bool
    idle_since_s: float


class ComponentPool(Struct, frozen=True):
    """One component as the pool sees it.

    ``free`` are the shards that may be leased or dropped: in the WarmPool, or, of a shared component, instances that
    serve no session. ``exist`` counts all its shards, whatever they do. ``failed_starts`` counts the starts that failed
    since the last that succeeded, the last of them at ``failed_s``.
    """

    component: Component
    scope: ScopeKind
    limits: Limits
    exist: int
    free: tuple[PooledShard, ...] = ()
    failed_starts: int = 0
    failed_s: float = 0.0


class PoolState(Struct, frozen=True):
    """``left`` is the capacity that nobody has reserved; a resource that is not limited is None in it.

    ``queued`` counts the requests that wait for shards.
    """

    pools: tuple[ComponentPool, ...]
    left: Resources
    queued: int = 0


class Refill(Struct, frozen=True):
    """Launch ``count`` shards of the component."""

    component: ComponentName
    count: int
    reason: str
    inputs: tuple[tuple[str, str | int | float], ...] = ()


class Evict(Struct, frozen=True):
    """Stop this free shard."""

    shard: ShardId
    component: ComponentName
    reason: str
    inputs: tuple[tuple[str, str | int | float], ...] = ()


PoolAction: TypeAlias = Refill | Evict


class PoolPolicy(Protocol):
    """Decides what the WarmPool should gain and lose. Synchronous; asked on every event and now and then."""

    def decide(self, state: PoolState, now: float) -> tuple[PoolAction, ...]:
        """Evictions first. Refills fit into what is left of the capacity, and break no bound of the manifest."""
        ...

    def next_s(self, state: PoolState, now: float) -> float | None:
        """When to ask again although nothing happened; None: no need."""
        ...

    def leased(self, component: Component, limits: Limits, source: str, now: float) -> None:
        """A shard was asked for; there was one that was ``warm``, or ``starting``, or none (``cold``)."""
        ...

    def returned(self, component: Component, limits: Limits, now: float) -> None:
        """A shard was let go by who held it."""
        ...

    def started(self, component: Component, limits: Limits, took_s: float) -> None:
        """A shard became ready, so long after it was decided."""
        ...


def backoff_s(failed_starts: int, *, longest_s: float = 30.0) -> float:
    """How long to wait after that many failed starts in a row: 0, 1, 2, 4, ... seconds, at most ``longest_s``."""
    return 0.0 if failed_starts <= 0 else min(longest_s, 2.0 ** min(failed_starts - 1, 62))


class KeepMinimum(Struct):
    """Keep ``warm.min`` shards free and ``scale.min`` shared instances running, and never more than ``warm.max`` free.

    Free shards up to ``warm.max`` stay (their guarantee is reserved already, and composition stops them when it needs
    the room); above it those idle longest go first. While requests wait for shards nothing is refilled: it would take
    the room that composition is making for them, and what they need they launch themselves.
    A component whose starts fail is left alone for 1, 2, 4, ... 30 s, so that one that cannot start never spins.
    """

    longest_backoff_s: float = 30.0

    def decide(self, state: PoolState, now: float) -> tuple[PoolAction, ...]:
        evictions: list[PoolAction] = []
        refills: list[PoolAction] = []
        room = Capacity(state.left)
        counter = 0
        # more important components first, should the room not suffice for all
        for pool in sorted(state.pools, key=lambda p: (-p.component.usage.priority, p.component.name)):
            evictions += _surplus(pool)
            wanted, why = _wanted(pool, state.queued)
            if wanted <= 0 or now < self._again_s(pool):
                continue
            count = 0
            while count < wanted and room.fits(pool.limits):
                counter += 1
                count += 1
                room.reserve(ShardId(f"{pool.component.name}-planned-{counter}"), pool.limits)
            if count:
                inputs = (("exist", pool.exist), ("free", len(pool.free)), ("failed_starts", pool.failed_starts))
                refills.append(Refill(pool.component.name, count, why, inputs))
        return (*evictions, *refills)

    def next_s(self, state: PoolState, now: float) -> float | None:
        again = (self._again_s(pool) for pool in state.pools if _wanted(pool, state.queued)[0] > 0)
        return min((at for at in again if at > now), default=None)

    def leased(self, component: Component, limits: Limits, source: str, now: float) -> None:
        """It does not count."""

    def returned(self, component: Component, limits: Limits, now: float) -> None:
        """It does not count."""

    def started(self, component: Component, limits: Limits, took_s: float) -> None:
        """It does not count."""

    def _again_s(self, pool: ComponentPool) -> float:
        if not pool.failed_starts:
            return float("-inf")
        return pool.failed_s + backoff_s(pool.failed_starts, longest_s=self.longest_backoff_s)


def _wanted(pool: ComponentPool, queued: int) -> tuple[int, str]:
    """How many more shards there should be, by the manifest alone, and why."""
    component = pool.component
    if queued:
        return 0, "requests are waiting for shards"
    if pool.scope is ScopeKind.SHARED:
        lowest = min(component.scale.min, component.scale.max)
        wanted, why = lowest - pool.exist, f"{pool.exist} instances run, scale.min is {component.scale.min}"
    else:
        lowest = min(component.warm.min, component.warm.max)
        wanted, why = lowest - len(pool.free), f"{len(pool.free)} shards are free, warm.min is {component.warm.min}"
    if component.usage.max_instances is not None:
        wanted = min(wanted, component.usage.max_instances - pool.exist)
    return wanted, why


def _surplus(pool: ComponentPool) -> list[PoolAction]:
    """Free shards above ``warm.max``; the most recently used are kept, ready ones before starting ones."""
    if pool.scope is ScopeKind.SHARED:
        return []
    most = pool.component.warm.max
    ranked = sorted(pool.free, key=lambda shard: (not shard.ready, -shard.idle_since_s, shard.id))
    reason = f"{len(pool.free)} shards are free, warm.max is {most}"
    inputs = (("free", len(pool.free)), ("warm_max", most))
    return [Evict(shard.id, pool.component.name, reason, inputs) for shard in ranked[most:]]
