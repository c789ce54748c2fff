"""Every answer of the partitioner keeps every cap and constraint, whatever the graph."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.errors import PlanError
from shardwright.sharding.partition import PartitionTask, partition


@st.composite
def tasks(draw: st.DrawFn) -> PartitionTask:
    size = draw(st.integers(1, 40))
    vertex = st.integers(0, size - 1)
    weights = draw(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=size, max_size=size))
    edges = draw(st.lists(st.tuples(vertex, vertex, st.integers(1, 100)), max_size=120))
    parts = draw(st.integers(1, 6))
    caps = tuple(int(sum(weight[place] for weight in weights) / parts * 1.3) + 10 for place in (0, 1))
    together = draw(st.lists(st.tuples(vertex, vertex), max_size=6))
    apart = (
        draw(st.lists(st.tuples(vertex, vertex).filter(lambda pair: pair[0] != pair[1]), max_size=6))
        if size > 1
        else []
    )
    return PartitionTask(tuple(weights), tuple(edges), parts, caps, tuple(together), tuple(apart))


def test_every_vertex_is_in_exactly_one_part_and_nothing_is_broken(
    record_exercised: Callable[[str, int], None],
) -> None:
    found = {"partitions": 0, "refusals": 0}

    @settings(max_examples=60, deadline=None)
    @given(tasks(), st.integers(0, 3))
    def holds(task: PartitionTask, seed: int) -> None:
        try:
            made = partition(task, seed=seed, effort=0.3)
        except PlanError as error:
            assert error.code in ("SW291", "SW292", "SW293")
            found["refusals"] += 1
            return
        found["partitions"] += 1
        assert len(made.parts) == len(task.weights)
        assert all(0 <= part < task.parts for part in made.parts)
        assert task.broken(made.parts) == []
        assert made.cut == task.cut(made.parts)
        assert partition(task, seed=seed, effort=0.3) == made

    holds()
    assert found["partitions"] >= 20
    record_exercised("random graphs partitioned", found["partitions"])
