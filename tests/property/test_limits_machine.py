"""Limits under demand of any kind, absurd metrics and failing actuations; and each property fails on a planted defect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from msgspec.structs import replace

from shardwright.controller import (
    CPU,
    MEMORY,
    LimitDecision,
    LimitParams,
    LimitState,
    actuations,
    decide_limits,
    may_raise,
)
from shardwright.controller import new_state as fresh_state

PARAMS = LimitParams(calm_s=20.0, rest_s=5.0, age_s=60.0, oom_hold_s=300.0)
CORES, MEMORY_GIB = 4.0, 4.0
ABSURD = (float("nan"), -1.0, float("inf"), -float("inf"), 1e300)
FEW = settings(
    max_examples=25,
    stateful_step_count=15,
    phases=[Phase.generate],
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class Node(RuleBasedStateMachine):
    """One node whose metrics and actuations may fail; what is applied is what counts."""

    decide: Callable[..., LimitDecision] = staticmethod(decide_limits)
    steps: Callable[..., list[tuple[int, int, float]]] = staticmethod(actuations)
    permits: Callable[..., bool] = staticmethod(may_raise)
    exercised = 0

    @initialize(count=st.integers(1, 5), seed=st.integers(0, 2**16))
    def begin(self, count: int, seed: int) -> None:
        generator = np.random.default_rng(seed)
        floor = np.stack((generator.uniform(0, CORES / count, count), generator.uniform(0, 2 / count, count)), axis=1)
        self.capacity = np.array([[CORES, MEMORY_GIB]])
        self.state = fresh_state(
            np.zeros(count, dtype=np.int64), floor, np.tile([CORES, MEMORY_GIB], (count, 1)),
            priority=generator.uniform(0, 100, count),
        )  # fmt: skip
        self.now = 0.0
        self.generator = generator

    def _decide(self, usage: np.ndarray, lacked: np.ndarray, measured: np.ndarray) -> LimitDecision:
        self.state = replace(self.state, usage=usage, lacked=lacked, measured_s=measured)
        return type(self).decide(self.state, self.capacity, self.now, PARAMS)

    def _apply(self, decision: LimitDecision, failing: float) -> None:
        applied = self.state.guarantee.copy()
        for shard, resource, amount in type(self).steps(self.state.guarantee, decision):
            if self.generator.random() < failing:
                continue  # the kernel refused; what is read back is the old limit
            sinks = amount < applied[shard, resource]
            if sinks or type(self).permits(applied, self.state.node, self.capacity, shard, resource, amount):
                applied[shard, resource] = amount
                type(self).exercised += 1
                assert (applied.sum(axis=0) <= self.capacity[0] * (1 + 1e-9)).all(), "promised more than there is"
        self.state = replace(decision.state, guarantee=applied)

    @rule(
        kind=st.sampled_from(["steady", "burst", "idle", "adversarial"]),
        ticks=st.integers(1, 40),
        failing=st.sampled_from([0, 0.3]),
    )
    def demand(self, kind: str, ticks: int, failing: float) -> None:
        count = self.state.count
        size = {"steady": 0.5, "burst": 3.0, "idle": 0.0, "adversarial": 1.0}[kind]
        for tick in range(ticks):
            self.now += 1.0
            wanted = self.generator.uniform(0, 1, (count, 2)) * size
            if kind == "adversarial":
                wanted[:, CPU] = 3.0 * (tick % 2)
            usage = np.minimum(wanted, [CORES / count, MEMORY_GIB / count])
            lacked = (wanted - usage) * [1.0, 0.0]
            self._apply(self._decide(usage, lacked, np.full(count, self.now)), failing)

    @rule(data=st.data())
    def absurd_metrics_freeze(self, data: st.DataObject) -> None:
        """Whoever is measured badly keeps exactly what he has, unless others' floors cannot be kept otherwise."""
        self.now += 1.0
        count = self.state.count
        usage = np.tile([0.1, 0.1], (count, 1))
        measured = np.full(count, self.now)
        who = data.draw(st.integers(0, count - 1))
        if data.draw(st.booleans()):
            usage[who, data.draw(st.integers(0, 1))] = data.draw(st.sampled_from(ABSURD[:4]))
        else:
            measured[who] = self.now - 1000
        before = self.state.guarantee[who].copy()
        decision = self._decide(usage, np.zeros((count, 2)), measured)
        assert np.array_equal(decision.state.guarantee[who], before), "a limit was changed blindly"
        self._apply(decision, 0.0)

    @rule(data=st.data())
    def killed_for_memory(self, data: st.DataObject) -> None:
        self.now += 1.0
        who = data.draw(st.integers(0, self.state.count - 1))
        oom = self.state.oom_s.copy()
        oom[who] = self.now
        self.state = replace(self.state, oom_s=oom)
        decision = self._decide(
            np.tile([0.1, 0.1], (self.state.count, 1)),
            np.zeros((self.state.count, 2)),
            np.full(self.state.count, self.now),
        )
        had = self.state.guarantee[who, MEMORY]
        assert decision.wish[who, MEMORY] >= min(had * PARAMS.oom_factor, MEMORY_GIB) - 1e-9, "memory was not raised"
        self._apply(decision, 0.0)

    @rule()
    def order_does_not_matter(self) -> None:
        order = self.generator.permutation(self.state.count)
        turned = LimitState(**{name: getattr(self.state, name)[order] for name in LimitState.__slots__})
        one = type(self).decide(self.state, self.capacity, self.now, PARAMS).state.guarantee
        other = type(self).decide(turned, self.capacity, self.now, PARAMS).state.guarantee
        assert np.allclose(one[order], other, atol=1e-6), "the result depends on the order of the shards"

    @rule(data=st.data())
    def more_important_gets_no_less(self, data: st.DataObject) -> None:
        who = data.draw(st.integers(0, self.state.count - 1))
        higher = self.state.priority.copy()
        higher[who] = 100.0
        one = type(self).decide(self.state, self.capacity, self.now, PARAMS).state.guarantee[who]
        other = (
            type(self)
            .decide(replace(self.state, priority=higher), self.capacity, self.now, PARAMS)
            .state.guarantee[who]
        )
        assert (other >= one - 1e-6).all(), "more priority got less"

    @rule()
    def constant_input_comes_to_rest(self) -> None:
        """After long enough with the same input nothing changes any more."""
        count = self.state.count
        usage = np.tile([CORES / count / 2, 0.1], (count, 1))
        for _ in range(60):
            self.now += 30.0
            self._apply(self._decide(usage, np.zeros((count, 2)), np.full(count, self.now)), 0.0)
        self.now += 30.0
        decision = self._decide(usage, np.zeros((count, 2)), np.full(count, self.now))
        assert not decision.order.size, "it never comes to rest"
        self._apply(decision, 0.0)

    @invariant()
    def floors_hold(self) -> None:
        if hasattr(self, "state"):
            assert (self.state.guarantee >= self.state.floor - 1e-6).all(), "less than the manifest guarantees"
            assert (self.state.guarantee <= self.state.ceiling + 1e-9).all(), "more than the ceiling"


def test_any_demand_any_failure(record_exercised: Callable[[str, int], None]) -> None:
    Node.exercised = 0
    run_state_machine_as_test(Node, settings=FEW)
    record_exercised("actuations checked against capacity", Node.exercised)
    assert Node.exercised > 100


def _changed(decision: LimitDecision, state: LimitState, guarantee: np.ndarray) -> LimitDecision:
    after = replace(decision.state, guarantee=guarantee)
    return replace(decision, state=after, order=np.flatnonzero((guarantee != state.guarantee).any(axis=1)))


def _blind(state: LimitState, capacity: Any, now: float, params: LimitParams) -> LimitDecision:
    """Believes every number."""
    usage = np.nan_to_num(np.abs(state.usage), nan=2.0, posinf=2.0)
    return decide_limits(replace(state, usage=usage, measured_s=np.full(state.count, now)), capacity, now, params)


def _greedy(state: LimitState, capacity: Any, now: float, params: LimitParams) -> LimitDecision:
    """First come, first served."""
    decision = decide_limits(state, capacity * 100, now, params)
    guarantee = decision.wish.copy()
    left = capacity[0].copy()
    for shard in range(state.count):
        guarantee[shard] = np.maximum(np.minimum(guarantee[shard], left), np.minimum(state.floor[shard], left))
        left -= guarantee[shard]
    return _changed(decision, state, guarantee)


def _no_floor(state: LimitState, capacity: Any, now: float, params: LimitParams) -> LimitDecision:
    decision = decide_limits(replace(state, floor=np.zeros_like(state.floor)), capacity, now, params)
    return replace(decision, state=replace(decision.state, floor=state.floor))


def _upside_down(state: LimitState, capacity: Any, now: float, params: LimitParams) -> LimitDecision:
    decision = decide_limits(replace(state, priority=100 - state.priority), capacity, now, params)
    return replace(decision, state=replace(decision.state, priority=state.priority))


def _restless(state: LimitState, capacity: Any, now: float, params: LimitParams) -> LimitDecision:
    decision = decide_limits(state, capacity, now, params)
    wobble = 1 - 0.02 * (np.floor(now / 30) % 2)
    return _changed(decision, state, np.maximum(decision.state.guarantee * wobble, state.floor))


def _forgets_oom(state: LimitState, capacity: Any, now: float, params: LimitParams) -> LimitDecision:
    return decide_limits(replace(state, oom_s=np.full(state.count, -np.inf)), capacity, now, params)


PLANTED = {
    "raises before it lowers, and unchecked": {
        "steps": lambda before, decision: actuations(before, decision)[::-1],
        "permits": lambda *_: True,
    },
    "raises although a step failed": {"permits": lambda *_: True},
    "believes absurd metrics": {"decide": _blind},
    "first come, first served": {"decide": _greedy},
    "no floors": {"decide": _no_floor},
    "priorities upside down": {"decide": _upside_down},
    "restless": {"decide": _restless},
    "forgets out-of-memory": {"decide": _forgets_oom},
}


@pytest.mark.parametrize("defect", PLANTED)
def test_a_planted_defect_is_found(defect: str) -> None:
    planted = type("Planted", (Node,), {name: staticmethod(f) for name, f in PLANTED[defect].items()})
    with pytest.raises(AssertionError):
        run_state_machine_as_test(planted, settings=settings(FEW, max_examples=200, derandomize=True))
