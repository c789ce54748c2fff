"""Cores kept for the highest tier, under any demand: others keep what they are guaranteed; and planted defects are found."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from shardwright.controller import PinParams, PinRounds, PinRow, _moves
from shardwright.model.ids import ComponentName, ShardId

FEW = settings(
    max_examples=150,
    stateful_step_count=12,
    phases=[Phase.generate],
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
DEMANDS = st.one_of(st.floats(0, 5), st.sampled_from((float("nan"), -1.0, float("inf"), 0.0)))
BUSY = st.floats(1, 5)
FAILING = st.one_of(st.just(frozenset[int]()), st.frozensets(st.integers(0, 5)))


class Cores(RuleBasedStateMachine):
    """A node whose shards ask for anything; where each may run is what was told last."""

    exercised = 0

    @initialize(cores=st.integers(2, 8), tier=st.booleans(), data=st.data())
    def begin(self, cores: int, tier: bool, data: st.DataObject) -> None:
        self.cores = tuple(range(cores))
        self.rounds = PinRounds(PinParams())
        self.now = 0.0
        self.where: dict[ShardId, tuple[int, ...]] = {}
        count = data.draw(st.integers(2 if tier else 1, 6))
        left = float(cores)
        self.shards = []
        for number in range(count):
            guarantee = data.draw(st.floats(0, left / 2))
            left -= guarantee
            priority, waits = float(data.draw(st.sampled_from((5, 50, 90)))), data.draw(st.booleans())
            if tier and number < 2:  # somebody to leave cores to, and somebody to leave them
                priority, waits = (90.0, True) if number else (5.0, False)
            self.shards.append((ShardId(f"s{number}"), priority, waits, guarantee))

    def carry_out(self, rows: list[PinRow], failing: frozenset[int] = frozenset()) -> set[ShardId]:
        """One round; the shards whose steps, by their number in it, were not carried out."""
        failed = set()
        for number, step in enumerate(self.rounds.decide(rows, self.cores, self.now)):
            assert step.reason and step.inputs
            if number in failing:
                self.rounds.failed(step)
                failed.add(step.shard)
            else:
                self.where[step.shard] = step.cores
                type(self).exercised += 1
        return failed

    @rule(data=st.data(), seconds=st.sampled_from((1.0, 10.0, 100.0)))
    def tick(self, data: st.DataObject, seconds: float) -> None:
        self.now += seconds
        demands = BUSY if data.draw(st.booleans()) else DEMANDS
        rows = [
            PinRow(shard, ComponentName("c"), priority, waits, data.draw(demands), guarantee)
            for shard, priority, waits, guarantee in self.shards
        ]
        failed = self.carry_out(rows, data.draw(FAILING))
        again = self.rounds.decide(rows, self.cores, self.now)
        assert {step.shard for step in again} == failed, "what was not carried out is not decided again"
        for step in again:
            self.rounds.failed(step)
        if data.draw(st.booleans()):
            return  # it stays as it is until the next round
        assert not self.carry_out(rows)
        highest = max(row.priority for row in rows)
        everywhere = set(self.cores)
        for row in rows:
            where = set(self.where.get(row.shard, self.cores))
            assert where and where <= everywhere, "it runs nowhere, or on a core that is not the node's"
            if row.priority == highest:
                assert where == everywhere, "the highest tier was moved"
            if row.waits:
                assert where == everywhere, "who states a waiting time was moved"
        below = [row for row in rows if row.priority < highest and not row.waits]
        room = {self.where.get(row.shard, self.cores) for row in below}
        if below:
            assert len(room) == 1, "one of those below has more cores than another"
            assert len(*room) + 1e-9 >= sum(row.guarantee for row in below), "they cannot get what they are guaranteed"
        assert not self.rounds.decide(rows, self.cores, self.now), "decided twice, the same is done twice"

    @rule(failing=FAILING)
    def calm(self, failing: frozenset[int]) -> None:
        """Nobody asks for anything for long: everybody may run anywhere, even if a step failed at first."""
        rows = [PinRow(shard, ComponentName("c"), p, waits, 0.0, g) for shard, p, waits, g in self.shards]
        for fail in (failing, failing, frozenset[int]()):
            self.now += 31.0
            self.carry_out(rows, fail)
        assert all(set(cores) == set(self.cores) for cores in self.where.values()), "cores stay empty for nobody"


def test_any_demand(record_exercised: Callable[[str, int], None]) -> None:
    Cores.exercised = 0
    run_state_machine_as_test(Cores, settings=FEW)
    assert Cores.exercised > 100
    record_exercised("moves between cores", Cores.exercised)


def _greedy(rows: Any, top: Any, cores: int) -> int:
    return cores - 1  # whatever the others are guaranteed


def _everybody(rows: Any) -> frozenset[ShardId]:
    return frozenset(row.shard for row in rows if row.waits)  # whoever states a waiting time, even with nobody above


def _all_below(row: Any, highest: float) -> bool:
    return bool(row.priority < highest)  # also who states a waiting time


class _Forgetful(PinRounds):
    def decide(self, rows: Any, cores: Any, now: float) -> Any:
        if math.isfinite(self._short_s):
            self._short_s = now  # short once is short for ever
        return super().decide(rows, cores, now)


class _Careless(PinRounds):
    def failed(self, step: Any) -> None:
        self._said.pop(step.shard, None)  # as if nothing had ever been said of it


DEFECTS = {
    "guarantees are not looked at": ("_most", _greedy),
    "the tier is anybody who waits": ("_highest", _everybody),
    "who states a waiting time leaves as well": ("_leaves", _all_below),
    "it never ends": ("PinRounds", _Forgetful),
    "a release that failed is not tried again": ("PinRounds", _Careless),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_planted_defect_is_found(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, planted = DEFECTS[defect]
    monkeypatch.setattr(sys.modules[__name__] if name == "PinRounds" else _moves, name, planted)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Cores, settings=settings(FEW, max_examples=1000, derandomize=True))
