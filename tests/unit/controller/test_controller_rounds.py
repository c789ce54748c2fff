"""Rounds of a running node: calm without numpy, raises by demand, bad numbers, few steps; instances to and from zero."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from msgspec.structs import replace

from shardwright.controller import ComponentRow, LimitRounds, ScaleParams, ScaleRounds, ShardRow
from shardwright.model.ids import ComponentName, ShardId
from shardwright.model.manifest import Component, Scale

CAPACITY = (2.0, 4.0)
WORK = ComponentName("work")


def row(name: str = "a", *, cpu: float = 0.0, lacked: float = 0.0, given: float = 0.1, at: float = 0.0) -> ShardRow:
    return ShardRow(
        shard=ShardId(name), component=WORK, priority=50.0, usage=(cpu, 0.01), lacked=(lacked, 0.0), measured_s=at,
        forecast=(math.nan, math.nan), floor=(0.1, 0.03125), ceiling=(1.0, 0.125), guarantee=(given, 0.03125),
    )  # fmt: skip


def test_calm_needs_no_numpy() -> None:
    code = (
        "import sys\nimport shardwright.node\nfrom shardwright.controller import LimitRounds\n"
        "assert LimitRounds.calm([])\nassert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_calm_is_who_has_its_floor_and_needs_no_more() -> None:
    assert LimitRounds.calm([row(cpu=0.05)])
    assert not LimitRounds.calm([row(cpu=0.05, lacked=0.2)]), "what it was kept from is demand"
    assert not LimitRounds.calm([row(cpu=0.05, given=0.4)]), "what was raised may have to sink"
    assert LimitRounds.calm([row(cpu=math.nan)])
    fixed = replace(row(cpu=0.9), floor=(0.0, 0.0), ceiling=(0.0, 0.0), guarantee=(0.0, 0.0))
    assert LimitRounds.calm([fixed]), "what the manifest does not guarantee is not begun with"


def test_who_is_kept_from_its_work_is_raised_within_its_ceiling() -> None:
    [step] = LimitRounds().decide([row(cpu=0.1, lacked=0.5)], CAPACITY, 0.0)
    assert step.rises
    assert step.cpu == pytest.approx(0.69, abs=0.002), "demand and a margin"
    assert step.memory_bytes is None
    assert dict(step.inputs)["kept_from_cpu"] == 0.5
    [step] = LimitRounds().decide([row(cpu=0.9, lacked=5.0)], CAPACITY, 0.0)
    assert step.cpu == 1.0


def test_sinks_come_before_raises_and_promises_fit_after_each() -> None:
    rounds = LimitRounds()
    rounds.decide([row("a", cpu=0.02, given=0.9), row("b", cpu=0.1, given=0.1)], (1.0, 4.0), 0.0)
    rows = [row("a", cpu=0.02, given=0.9, at=200.0), row("b", cpu=0.9, lacked=0.3, given=0.1, at=200.0)]
    steps = rounds.decide(rows, (1.0, 4.0), 200.0)
    assert [step.rises for step in steps] == sorted(step.rises for step in steps)
    given = {each.shard: each.guarantee[0] for each in rows}
    for step in steps:
        assert step.cpu is not None
        given[step.shard] = step.cpu
        assert sum(given.values()) <= 1.0 + 1e-9
    assert len(steps) == 2


@pytest.mark.parametrize("bad", [math.nan, -1.0, math.inf])
def test_numbers_that_are_none_change_nothing(bad: float) -> None:
    rounds = LimitRounds()
    assert rounds.decide([replace(row(given=0.4), usage=(bad, bad))], CAPACITY, 0.0) == ()
    assert rounds.decide([replace(row(given=0.4), usage=(bad, 0.01), lacked=(bad, bad))], CAPACITY, 500.0) == ()


def test_stale_metrics_freeze() -> None:
    rounds = LimitRounds()
    rounds.decide([row(cpu=0.5, lacked=0.4)], CAPACITY, 0.0)
    assert rounds.decide([row(cpu=0.5, lacked=0.4)], CAPACITY, 500.0) == ()
    assert rounds.decide([replace(row(cpu=0.9), measured_s=-math.inf)], CAPACITY, 0.0) == ()


def test_small_raises_are_not_worth_a_step() -> None:
    assert LimitRounds().decide([row(cpu=0.103)], CAPACITY, 0.0) == ()


def component(low: int, high: int, target: float = 1.0) -> Component:
    return Component(WORK, "work", scale=Scale(low, high, target))


def test_instances_follow_concurrency_and_end_idle_where_permitted() -> None:
    rounds = ScaleRounds(ScaleParams(stable_s=10.0, panic_s=3.0, idle_s=20.0))
    decided = [rounds.decide(component(0, 4), ComponentRow(WORK, 1, 3.0), float(t))[0].instances for t in range(3)]
    assert decided == [3, 3, 3]
    count = 3
    for t in range(3, 60):
        count = rounds.decide(component(0, 4), ComponentRow(WORK, count, 0.0), float(t))[0].instances
    assert count == 0
    assert rounds.decide(component(0, 4), ComponentRow(WORK, 0, 0.0, queued=1), 61.0)[0].instances == 1


def test_unknown_concurrency_leaves_instances_as_they_are() -> None:
    rounds = ScaleRounds(ScaleParams(stable_s=10.0, panic_s=3.0, idle_s=20.0))
    for t in range(100):
        assert rounds.decide(component(0, 4), ComponentRow(WORK, 2, math.nan), float(t))[0].instances == 2


def test_guarantees_of_the_manifest_stand_when_they_fill_the_node() -> None:
    rows = [replace(row(name, cpu=0.9, lacked=0.5, given=0.5), floor=(0.5, 0.03125)) for name in "ab"]
    assert LimitRounds().decide(rows, (1.0 + 1e-9, 4.0), 0.0) == ()
