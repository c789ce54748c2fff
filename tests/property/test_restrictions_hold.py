"""Restrictions of a usage model on one node are never exceeded, whatever is measured; and planted defects are found."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from msgspec.structs import replace

from shardwright.controller import (
    ComponentPool,
    CountedNeeds,
    Evict,
    Load,
    PooledShard,
    PoolState,
    Refill,
    ScaleParams,
    decide_instances,
)
from shardwright.model.ids import ComponentName, ShardId
from shardwright.model.limits import Limits, Resources
from shardwright.model.manifest import Component, Cost, Scale, UsageModel, Warm
from shardwright.model.scope import Scope, ScopeKind

NUMBERS = st.one_of(
    st.none(), st.floats(0, 1e4), st.sampled_from((float("nan"), float("inf"), -1.0, -float("inf"), 0.0))
)
LIMITS = Limits(Resources(cpu=0.01, memory_bytes=64 * 2**20))
FEW = settings(
    max_examples=25,
    stateful_step_count=25,
    phases=[Phase.generate],
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@settings(max_examples=300, deadline=None)
@given(
    bounds=st.tuples(st.integers(0, 8), st.integers(1, 8)),
    most=st.one_of(st.none(), st.integers(1, 8)),
    fits=st.one_of(st.none(), st.integers(0, 12)),
    there=st.integers(0, 12),
    numbers=st.tuples(*[NUMBERS] * 3),
    queued=st.integers(0, 100),
    rates=st.tuples(st.floats(0, 1e5), st.floats(0, 1e3)),
    panic_s=st.one_of(st.none(), st.floats(-100, 100)),
)
def test_instances_stay_within_every_bound(
    bounds: tuple[int, int],
    most: int | None,
    fits: int | None,
    there: int,
    numbers: tuple[float | None, float | None, float | None],
    queued: int,
    rates: tuple[float, float],
    panic_s: float | None,
) -> None:
    component = Component(
        ComponentName("c"), "c", scale=Scale(*bounds), usage=UsageModel(max_instances=most, latency_slo_s=0.02)
    )
    stable, panic, forecast = numbers
    load = Load(there, stable, panic, rates[0], rates[1], forecast, queued, idle_since_s=-1000.0, panic_since_s=panic_s)
    decided = decide_instances(component, load, 0.0, ScaleParams(), fits=fits)
    assert 0 <= decided.instances <= bounds[1]
    assert most is None or decided.instances <= most
    assert fits is None or decided.instances <= fits
    assert decided.reason


class Pool(RuleBasedStateMachine):
    """Sessions that come and go, of a component that may have few shards; starts and evictions are carried out."""

    make: Callable[..., CountedNeeds] = CountedNeeds
    exercised = 0

    @initialize(most=st.integers(1, 6), warm=st.tuples(st.integers(0, 3), st.integers(0, 8)))
    def begin(self, most: int, warm: tuple[int, int]) -> None:
        self.most = most
        self.component = Component(
            ComponentName("game"), "game", scope=Scope(ScopeKind.SESSION), reuse=True, limits=LIMITS,
            warm=Warm(min(warm[0], most), max(warm)), usage=UsageModel(max_instances=most),
        )  # fmt: skip
        self.policy = type(self).make(Cost())
        self.now, self.used = 0.0, 0
        self.free: list[PooledShard] = []
        self.ids = itertools.count()

    def tick(self) -> None:
        pool = ComponentPool(self.component, ScopeKind.SESSION, LIMITS, len(self.free) + self.used, tuple(self.free))
        room = Resources(cpu=4.0, memory_bytes=8 * 2**30)
        for action in self.policy.decide(PoolState((pool,), room), self.now):
            assert action.reason and action.inputs, "a decision without its reason, or what it was taken from"
            if isinstance(action, Evict):
                self.free = [shard for shard in self.free if shard.id != action.shard]
            elif isinstance(action, Refill):
                for _ in range(action.count):
                    type(self).exercised += 1
                    self.free.append(PooledShard(ShardId(f"g{next(self.ids)}"), True, self.now))
                    self.policy.started(self.component, LIMITS, 0.5)

    @rule(count=st.integers(1, 5), gap_s=st.sampled_from((0.0, 0.1, 10.0)))
    def arrive(self, count: int, gap_s: float) -> None:
        for _ in range(count):
            self.now += gap_s
            if self.free:
                self.free.pop()
                source = "warm"
            elif self.used < self.most:
                source = "cold"
            else:
                continue  # it waits; composition keeps that bound
            self.used += 1
            self.policy.leased(self.component, LIMITS, source, self.now)
            self.tick()

    @rule(count=st.integers(1, 5))
    def leave(self, count: int) -> None:
        for _ in range(min(count, self.used)):
            self.used -= 1
            self.free.append(PooledShard(ShardId(f"g{next(self.ids)}"), True, self.now))
            self.policy.returned(self.component, LIMITS, self.now)
            self.tick()

    @rule(seconds=st.sampled_from((0.01, 1.0, 100.0, 10_000.0)))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.tick()

    @invariant()
    def bounded(self) -> None:
        if hasattr(self, "most"):
            assert len(self.free) + self.used <= self.most, "more instances than the usage model permits"


def test_a_pool_by_demand_keeps_the_usage_models_bound(record_exercised: Callable[[str, int], None]) -> None:
    Pool.exercised = 0
    run_state_machine_as_test(Pool, settings=FEW)
    assert Pool.exercised > 10
    record_exercised("starts ahead of demand", Pool.exercised)


class _Unbounded(CountedNeeds):
    """Has never heard of a usage model."""

    def decide(self, state: Any, now: float) -> Any:
        pools = tuple(replace(pool, component=replace(pool.component, usage=UsageModel())) for pool in state.pools)
        return super().decide(replace(state, pools=pools), now)


class _Forgetful(CountedNeeds):
    """Forgets what serves."""

    def decide(self, state: Any, now: float) -> Any:
        pools = tuple(replace(pool, exist=len(pool.free)) for pool in state.pools)
        return super().decide(replace(state, pools=pools), now)


@pytest.mark.parametrize("defect", [_Unbounded, _Forgetful])
def test_a_planted_defect_is_found(defect: type[CountedNeeds]) -> None:
    with pytest.raises(AssertionError):
        run_state_machine_as_test(type("Planted", (Pool,), {"make": defect}), settings=settings(FEW, max_examples=100))
