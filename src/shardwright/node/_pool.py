"""The pool of free shards: what the policy sees of it, and what it decides, performed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from msgspec.structs import replace

from shardwright.composition import Composer, Effect, Inputs, Launch, Refused, ShardRecord, ShardStatus
from shardwright.contracts.clock import Clock
from shardwright.controller import (
    ComponentPool,
    CountedNeeds,
    KeepMinimum,
    PoolCost,
    PooledShard,
    PoolPolicy,
    PoolState,
    Refill,
)
from shardwright.errors import ShardwrightError
from shardwright.model.ids import ComponentName
from shardwright.model.manifest import Component, Manifest
from shardwright.model.scope import ScopeKind
from shardwright.model.shard import GATEWAY_COMPONENT, MAIN_COMPONENT, ShardPlan
from shardwright.node import _arrays
from shardwright.node._shard_events import ShardEvents

BETWEEN_TICKS_S = 0.002
SHORT_LIFE_S = 1.0  # who is lost sooner than that, again and again, is made again ever more slowly
SHORT_LIVES = 3  # so many in a row are bad luck
SHORT_LIVES_OF_GATEWAY = 30  # it is awaited by everybody outside, and runs no code of the application


def policy_of(manifest: Manifest) -> PoolPolicy:
    """As ``[policy] pool`` says."""
    return CountedNeeds(manifest.policy.cost) if manifest.policy.pool == "demand" else KeepMinimum()


class Pool:
    """Keeps as many free shards as the policy wants. Use from the node's event loop alone.

    ``begin`` launches what was decided, ``perform`` does what else follows from a decision.
    """

    def __init__(
        self,
        plan: ShardPlan,
        components: Mapping[ComponentName, Component],
        composer: Composer,
        policy: PoolPolicy,
        clock: Clock,
        events: ShardEvents,
        begin: Callable[[Launch], None],
        perform: Callable[[Iterable[Effect]], None],
    ) -> None:
        self._plan = plan
        self._components = components
        self._composer = composer
        self._policy = policy
        self._clock = clock
        self._events = events
        self._begin = begin
        self._perform = perform
        self._failures: dict[ComponentName, tuple[int, float]] = {}
        self._short_lives: Counter[ComponentName] = Counter()  # losses since one lived for a while
        self._tick_due = False
        self._ticked_s = float("-inf")
        self._closing = False
        self._leases: list[tuple[ComponentName, str, float]] = []  # that the policy did not hear of yet
        self._loading: asyncio.Task[None] | None = None
        self._held: Counter[ComponentName] = Counter()
        self.first_failure: ShardwrightError | None = None

    def close(self) -> None:
        """Nothing is launched any more."""
        self._closing = True
        if self._loading is not None:
            self._loading.cancel()

    def take_up(self, plan: ShardPlan, changed: Iterable[ComponentName]) -> None:
        """Other code for those components, whose failures count no longer."""
        self._plan = plan
        for component in changed:
            self.lives(component)

    # -- what demand there is ----------------------------------------------------------------------------------

    def leased(self, component: ComponentName, source: str) -> None:
        """Somebody was given a shard of it."""
        if not isinstance(self._policy, CountedNeeds) or component in (MAIN_COMPONENT, GATEWAY_COMPONENT):
            return
        self._leases.append((component, source, self._clock.monotonic_s()))
        if _arrays.loaded() or len(self._leases) < 2:
            self._hear()
        elif self._loading is None:
            self._loading = asyncio.get_running_loop().create_task(self._load())

    async def _load(self) -> None:
        await _arrays.load()
        self._hear()

    def _hear(self) -> None:
        """Tell the policy, in the order in which it happened."""
        if not _arrays.loaded():
            return
        leases, self._leases = self._leases, []
        for component, source, at_s in leases:
            definition = self._plan.definition(component)
            if definition.scope.kind is not ScopeKind.SHARED:
                self._policy.leased(self._components[component], definition.limits, source, at_s)
        self.later_tick()

    def started(self, component: ComponentName, took_s: float) -> None:
        """A shard of it became ready."""
        self._policy.started(self._components[component], self._plan.definition(component).limits, took_s)

    def learnt(self) -> dict[str, dict[str, list[float]]]:
        """What the policy knows of demand; empty where it counts none."""
        return self._policy.learnt() if isinstance(self._policy, CountedNeeds) else {}

    def remember(self, kept: object) -> None:
        """What a node before this one had learnt."""
        if isinstance(self._policy, CountedNeeds):
            self._policy.take_up(kept)

    def costs(self) -> tuple[PoolCost, ...]:
        return self._policy.costs() if isinstance(self._policy, CountedNeeds) else ()

    def later_tick(self) -> None:
        if not self._tick_due and not self._closing:
            self._tick_due = True
            loop = asyncio.get_running_loop()
            passed_s = loop.time() - self._ticked_s
            if passed_s >= BETWEEN_TICKS_S:
                loop.call_soon(self.tick)
            else:  # many come and go at once: each is not worth a look at all
                loop.call_later(BETWEEN_TICKS_S - passed_s, self.tick)

    def tick(self) -> None:
        self._tick_due = False
        if self._closing:
            return
        self._ticked_s = asyncio.get_running_loop().time()
        now = self._clock.monotonic_s()
        for action in self._policy.decide(self._state(), now):
            if isinstance(action, Refill):
                for _ in range(action.count):
                    decision = self._composer.launch(action.component, now, action.reason)
                    if isinstance(decision, Refused):
                        self._events.record(
                            "refuse", decision.reason, component=action.component, inputs=decision.inputs
                        )
                        self._events.lacks_room()
                        break
                    self._begin(replace(decision, inputs=_both(decision.inputs, action.inputs)))
            else:
                effects = self._composer.evict(action.shard, now, action.reason)
                self._perform(replace(effect, inputs=_both(effect.inputs, action.inputs)) for effect in effects)

    def _state(self) -> PoolState:
        by_component: dict[ComponentName, list[ShardRecord]] = {name: [] for name in self._components}
        for record in self._composer.shards():
            by_component[record.component].append(record)
        pools = []
        for definition in self._plan.definitions:
            records = by_component[definition.component]
            free = tuple(
                PooledShard(r.id, r.status is ShardStatus.READY, r.idle_since_s or r.created_s)
                for r in records
                if r.status in (ShardStatus.READY, ShardStatus.STARTING)
                and (r.free or (r.scope is ScopeKind.SHARED and not r.held))
            )
            held = sum(record.held for record in records)
            for _ in range(self._held[definition.component] - held):
                now = self._clock.monotonic_s()
                self._policy.returned(self._components[definition.component], definition.limits, now)
            self._held[definition.component] = held
            count, failed_s = self._failures.get(definition.component, (0, 0.0))
            component = self._components[definition.component]
            kind = definition.scope.kind
            pools.append(ComponentPool(component, kind, definition.limits, len(records), free, count, failed_s))
        return PoolState(tuple(pools), self._composer.left(), len(self._composer.queued()))

    def start_failed(self, component: ComponentName, error: ShardwrightError, now: float) -> None:
        count, _ = self._failures.get(component, (0, 0.0))
        self._failures[component] = (count + 1, now)
        if self.first_failure is None:
            self.first_failure = error

    def lives(self, component: ComponentName) -> None:
        """A shard of it has lived for ``SHORT_LIFE_S``."""
        self._failures.pop(component, None)
        self._short_lives.pop(component, None)

    def lost(self, component: ComponentName, now: float) -> None:
        """A start after which nobody lived is no success: else a component that crashes would keep us busy for ever."""
        self._short_lives[component] += 1
        bad_luck = SHORT_LIVES_OF_GATEWAY if component == GATEWAY_COMPONENT else SHORT_LIVES
        if self._short_lives[component] > bad_luck:
            count, _ = self._failures.get(component, (0, 0.0))
            self._failures[component] = (count + 1, now)


def _both(one: Inputs, other: Inputs) -> Inputs:
    """What composition decided from, and what the policy did, where it says more."""
    names = {name for name, _ in one}
    return (*one, *((name, value) for name, value in other if name not in names))
