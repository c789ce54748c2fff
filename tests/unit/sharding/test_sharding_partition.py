"""Partitioning: contradictions are named, and the committed tasks are cut about as well as without constraints."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import msgspec.structs
import mtkahypar
import pymetis
import pytest

from shardwright.errors import PlanError
from shardwright.sharding.partition import PartitionTask, generate, partition
from shardwright.sharding.partition import _solve as solve

SEEDS = range(10) if os.environ.get("SWT_LONG") else range(3)


def without_constraints(task: PartitionTask) -> int:
    """The smaller cut of the two libraries, with the cap on CPU alone."""
    initializer = mtkahypar.initialize(1, False)
    context = initializer.context_from_preset(mtkahypar.PresetType.DETERMINISTIC)
    context.set_partitioning_parameters(task.parts, 0.10, mtkahypar.Objective.CUT)
    context.logging = False
    mtkahypar.set_seed(1)
    weights = [weight[0] for weight in task.weights]
    ends = [(u, v) for u, v, _ in task.edges]
    graph = initializer.create_graph(
        context, len(weights), len(ends), ends, weights, [weight for *_, weight in task.edges]
    )
    cuts = [task.cut(graph.partition(context).get_partition())]
    neighbours: list[dict[int, int]] = [{} for _ in weights]
    for u, v, weight in task.edges:
        neighbours[u][v] = neighbours[v][u] = weight
    starts, others, heavy = [0], [], []
    for near in neighbours:
        others += near
        heavy += near.values()
        starts.append(len(others))
    for recursive in (False, True):
        _, parts = pymetis.part_graph(
            task.parts, pymetis.CSRAdjacency(starts, others), vweights=weights, eweights=heavy, recursive=recursive,
            options=pymetis.Options(ufactor=100),
        )  # fmt: skip
        cuts.append(task.cut(parts))
    return min(cuts)


@pytest.mark.parametrize("seed", SEEDS)
def test_constraints_cost_little(seed: int, record_exercised: Callable[[str, int], None]) -> None:
    task = generate(seed)
    assert len(task.weights) == 500 and len(task.together) == 30 and len(task.apart) == 20
    made = partition(task)
    assert task.broken(made.parts) == []
    assert len(set(made.parts)) == 8
    assert made.cut <= 1.1 * without_constraints(task)
    record_exercised("vertices partitioned under caps and constraints", len(made.parts))


def test_without_the_library_everything_is_still_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solve, "_multilevel", lambda: None)
    task = generate(1, vertices=120, parts=4, together=8, apart=6)
    made = partition(task)
    assert task.broken(made.parts) == []
    assert made.cut < sum(weight for *_, weight in task.edges) / 4


def test_what_contradicts_itself_is_refused() -> None:
    task = PartitionTask(((1,), (1,), (1,)), ((0, 1, 5),), 2, (3,), together=((0, 1), (1, 2)), apart=((0, 2),))
    with pytest.raises(PlanError, match="must be apart") as caught:
        partition(task)
    assert caught.value.code == "SW291" and caught.value.remedy


def test_a_set_too_large_for_a_part_is_refused() -> None:
    task = PartitionTask(((2,), (2,), (2,)), (), 2, (3,), together=((0, 1),))
    with pytest.raises(PlanError) as caught:
        partition(task)
    assert caught.value.code == "SW292"


def test_caps_that_cannot_be_kept_are_refused() -> None:
    task = PartitionTask(((2,), (2,), (2,)), (), 2, (3,))
    with pytest.raises(PlanError) as caught:
        partition(task)
    assert caught.value.code == "SW293"


def test_a_brute_force_search_finds_nothing_better() -> None:
    found: list[tuple[int, int]] = []
    for seed in range(6):
        task = generate(seed, vertices=9, parts=3, cpu_cap=1.6, memory_cap=1.6, together=1, apart=2, hard=True)
        best = min(_everything(task), default=None)
        if best is not None:
            found.append((partition(task).cut, best))
    assert len(found) >= 3
    assert all(cut == best for cut, best in found)


def _everything(task: PartitionTask) -> Any:
    size = len(task.weights)
    for number in range(task.parts**size):
        parts = [number // task.parts**place % task.parts for place in range(size)]
        if not task.broken(parts):
            yield task.cut(parts)


def test_the_same_task_gives_the_same_answer() -> None:
    task = generate(3, vertices=60, parts=4, together=4, apart=4)
    assert partition(task) == partition(msgspec.structs.replace(task)) == partition(task, seed=0)
