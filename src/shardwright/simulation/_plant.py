"""A small node under more demand than it has now and then: the plant on which rules about limits are compared.

Demand of four shards on eight cores: levels that step, daily waves, bursts and noise, drawn by seed so that their sum exceeds
the cores in a part of the ticks. What is not served in a tick is lost (unmet), so the least possible is what exceeds the cores.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from shardwright.contracts.forecast import FloatArray
from shardwright.controller import CPU, LimitParams, LimitState, actuations, decide_limits, lend, may_raise, new_state

CORES, SHARDS, TICKS = 8.0, 4, 2000


class PlantResult(Struct, frozen=True):
    """Shares of all demand; changes per 100 ticks and shard; the most that was ever guaranteed, in cores."""

    unmet: float
    least_unmet: float
    changes: float
    most_guaranteed: float


def plant_demand(seed: int, ticks: int = TICKS, shards: int = SHARDS) -> FloatArray:
    """Cores that each shard asks for in each tick, shape (ticks, shards)."""
    generator = np.random.default_rng([seed, 8])
    time = np.arange(ticks)
    columns = []
    for shard in range(shards):
        level = np.repeat(generator.uniform(0.3, 2.2, ticks // 100 + 1), 100)[:ticks]
        wave = 1 + 0.4 * np.sin(2 * np.pi * (time / generator.uniform(200, 600) + generator.random()))
        begins = generator.random(ticks) < 0.01
        bursts = np.convolve(begins, np.ones(8), mode="full")[:ticks] > 0
        noise = generator.lognormal(0, 0.15, ticks)
        columns.append(np.minimum((level * wave + bursts * generator.uniform(0.5, 3.0)) * noise, CORES))
        del shard
    return np.stack(columns, axis=1)


Controller = Callable[
    [LimitState, FloatArray, float], LimitState
]  # (state, capacity, now) -> state with new guarantees


def run_plant(seed: int, controller: Controller, *, lending: bool = True, ticks: int = TICKS) -> PlantResult:
    """Run one rule over one demand. Without ``lending`` a guarantee is a hard cap."""
    demand = plant_demand(seed, ticks)
    shards = demand.shape[1]
    node = np.zeros(shards, dtype=np.int64)
    capacity = np.array([[CORES, 64.0]])
    floor = np.tile([0.25, 0.1], (shards, 1))
    state = new_state(node, floor, np.tile([CORES, 16.0], (shards, 1)))
    state = replace(state, guarantee=np.tile([CORES / shards, 0.2], (shards, 1)))
    changes, unmet, most = 0, 0.0, 0.0
    for tick in range(ticks):
        guarantee = state.guarantee[:, CPU]
        ceiling = state.ceiling[:, CPU] if lending else guarantee
        if guarantee.sum() > CORES:  # what was promised twice is really shared
            given = np.minimum(demand[tick], guarantee)
            given = given * min(1.0, CORES / max(given.sum(), 1e-9))
        else:
            given = lend(demand[tick], guarantee, ceiling, state.weight, node, capacity[:, CPU])
        unmet += float((demand[tick] - given).sum())
        memory = np.full(shards, 0.1)
        state = replace(
            state,
            usage=np.stack((given, memory), axis=1),
            lacked=np.stack((demand[tick] - given, np.zeros(shards)), axis=1),
            measured_s=np.full(shards, float(tick)),
        )
        after = controller(state, capacity, float(tick))
        changes += int((np.abs(after.guarantee[:, CPU] - state.guarantee[:, CPU]) > 1e-9).sum())
        state = after
        most = max(most, float(state.guarantee[:, CPU].sum()))
    least = float(np.maximum(demand.sum(axis=1) - CORES, 0.0).sum())
    whole = float(demand.sum())
    return PlantResult(unmet / whole, least / whole, changes / (ticks * shards) * 100, most)


def limits_controller(params: LimitParams) -> Controller:
    """The node's own decisions, every step of which is checked against the capacity as it is done."""

    def controller(state: LimitState, capacity: FloatArray, now: float) -> LimitState:
        decision = decide_limits(state, capacity, now, params)
        applied = state.guarantee.copy()
        for shard, resource, amount in actuations(state.guarantee, decision):
            if amount < applied[shard, resource] or may_raise(applied, state.node, capacity, shard, resource, amount):
                applied[shard, resource] = amount
        return replace(decision.state, guarantee=applied)

    return controller
