"""Cores kept for the highest tier, under any demand: others keep what they are guaranteed; and planted defects are found."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from shardwright.controller import PinParams, PinRounds, PinRow, _moves
from shardwright.model.ids import ComponentName, ShardId

FEW = settings(
    max_examples=60,
    stateful_step_count=12,
    phases=[Phase.generate],
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
DEMANDS = st.one_of(st.floats(0, 5), st.sampled_from((float("nan"), -1.0, float("inf"), 0.0)))


class Cores(RuleBasedStateMachine):
    """A node whose shards ask for anything; where each may run is what was told last."""

    exercised = 0

    @initialize(cores=st.integers(2, 8), data=st.data())
    def begin(self, cores: int, data: st.DataObject) -> None:
        self.cores = tuple(range(cores))
        self.rounds = PinRounds(PinParams())
        self.now = 0.0
        self.where: dict[ShardId, tuple[int, ...]] = {}
        count = data.draw(st.integers(1, 6))
        left = float(cores)
        self.shards = []
        for number in range(count):
            guarantee = data.draw(st.floats(0, left / 2))
            left -= guarantee
            priority = float(data.draw(st.sampled_from((5, 50, 90))))
            self.shards.append((ShardId(f"s{number}"), priority, data.draw(st.booleans()), guarantee))

    @rule(data=st.data(), seconds=st.sampled_from((1.0, 10.0, 100.0)))
    def tick(self, data: st.DataObject, seconds: float) -> None:
        self.now += seconds
        rows = [
            PinRow(shard, ComponentName("c"), priority, waits, data.draw(DEMANDS), guarantee)
            for shard, priority, waits, guarantee in self.shards
        ]
        for step in self.rounds.decide(rows, self.cores, self.now):
            assert step.reason and step.inputs
            self.where[step.shard] = step.cores
            type(self).exercised += 1
        highest = max(row.priority for row in rows)
        everywhere = set(self.cores)
        for row in rows:
            where = set(self.where.get(row.shard, self.cores))
            assert where and where <= everywhere, "it runs nowhere, or on a core that is not the node's"
            if row.priority == highest:
                assert where == everywhere, "the highest tier was moved"
        below = [row for row in rows if row.priority < highest]
        room = {self.where.get(row.shard, self.cores) for row in below}
        if below:
            assert len(room) == 1, "one of those below has more cores than another"
            assert len(*room) + 1e-9 >= sum(row.guarantee for row in below), "they cannot get what they are guaranteed"
        assert not self.rounds.decide(rows, self.cores, self.now), "decided twice, the same is done twice"

    @rule()
    def calm(self) -> None:
        """Nobody asks for anything for long: everybody may run anywhere."""
        rows = [PinRow(shard, ComponentName("c"), p, waits, 0.0, g) for shard, p, waits, g in self.shards]
        for _ in range(3):
            self.now += 31.0
            for step in self.rounds.decide(rows, self.cores, self.now):
                self.where[step.shard] = step.cores
        assert all(set(cores) == set(self.cores) for cores in self.where.values()), "cores stay empty for nobody"


def test_any_demand(record_exercised: Callable[[str, int], None]) -> None:
    Cores.exercised = 0
    run_state_machine_as_test(Cores, settings=FEW)
    assert Cores.exercised > 20
    record_exercised("moves between cores", Cores.exercised)


def _greedy(rows: Any, top: Any, cores: int) -> int:
    return cores - 1  # whatever the others are guaranteed


def _everybody(rows: Any) -> frozenset[ShardId]:
    return frozenset(row.shard for row in rows if row.waits)  # whoever states a waiting time, even with nobody above


class _Forgetful(PinRounds):
    def decide(self, rows: Any, cores: Any, now: float) -> Any:
        if math.isfinite(self._short_s):
            self._short_s = now  # short once is short for ever
        return super().decide(rows, cores, now)


@pytest.mark.parametrize("defect", ["guarantees are not looked at", "the tier is anybody who waits", "it never ends"])
def test_a_planted_defect_is_found(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if defect == "guarantees are not looked at":
        monkeypatch.setattr(_moves, "_most", _greedy)
    elif defect == "the tier is anybody who waits":
        monkeypatch.setattr(_moves, "_highest", _everybody)
    else:
        monkeypatch.setitem(Cores.begin.__wrapped__.__globals__ if hasattr(Cores.begin, "__wrapped__") else globals(),
                            "PinRounds", _Forgetful)  # fmt: skip
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Cores, settings=settings(FEW, max_examples=400))
