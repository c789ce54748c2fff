"""Limits on a plant and on a fleet: as little unmet as can be, few changes, nothing promised twice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from shardwright.controller import LimitParams
from shardwright.simulation import FleetParams, limits_controller, plant_demand, run_fleet, run_plant
from shardwright.simulation._specified_rule import specified_rule


def test_the_plant_is_short_now_and_then() -> None:
    short = [float((plant_demand(seed).sum(axis=1) > 8).mean()) for seed in range(20)]
    assert all(0.005 < share < 0.5 for share in short)


def test_hardly_more_is_unmet_than_must_be(record_exercised: Callable[[str, int], None]) -> None:
    seeds = range(20)
    for seed in seeds:
        result = run_plant(seed, limits_controller(LimitParams()), ticks=500)
        assert result.unmet - result.least_unmet <= 0.01
        assert result.changes <= 3
        assert result.most_guaranteed <= 8 * (1 + 1e-9)
    record_exercised("ticks of the plant", 500 * len(seeds))


def test_the_specified_rule_as_written_is_beaten() -> None:
    written = [run_plant(seed, specified_rule(), lending=False, ticks=500) for seed in range(4)]
    ours = [run_plant(seed, limits_controller(LimitParams()), ticks=500) for seed in range(4)]
    assert np.mean([r.unmet for r in written]) > np.mean([r.unmet for r in ours]) + 0.01
    assert max(r.changes for r in written) > 10, "it flaps"
    assert max(r.most_guaranteed for r in written) > 8, "it promises more than there is"


@pytest.mark.parametrize("failures", [0, 2])
def test_a_fleet_promises_nothing_twice(failures: int) -> None:
    params = FleetParams(nodes=20, shards=1500, ticks=60, cores=24.0, memory_gib=96.0, node_failures=failures)
    result = run_fleet(params, 0)
    assert result == run_fleet(params, 0)
    assert result.overcommitted == 0
    assert (result.moved > 0) == bool(failures)
    assert result.unmet < 0.2
