"""A whole fleet in virtual time: limits of all shards on all nodes, decided each tick by the node's own functions."""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from shardwright.controller import CPU, MEMORY, LimitParams, decide_limits, lend, new_state


class FleetParams(Struct, frozen=True):
    """Sizes, and how long; ``node_failures`` nodes die at random ticks, their shards move to the others."""

    nodes: int = 1000
    shards: int = 100_000
    ticks: int = 360
    tick_s: float = 10.0
    cores: float = 64.0
    memory_gib: float = 256.0
    node_failures: int = 5


class FleetResult(Struct, frozen=True):
    """``overcommitted`` counts ticks and nodes on which guarantees exceeded the capacity: 0, or it is a defect."""

    unmet: float
    changes: int
    overcommitted: int
    moved: int


def run_fleet(params: FleetParams, seed: int) -> FleetResult:
    """Demand of every shard is a daily wave, noise and bursts, by seed."""
    generator = np.random.default_rng([seed, 1000])
    count = params.shards
    node = generator.integers(0, params.nodes, count)
    alive = np.ones(params.nodes, dtype=bool)
    dies = dict(
        zip(generator.integers(1, max(params.ticks, 2), params.node_failures).tolist(),
            generator.permutation(params.nodes)[: params.node_failures].tolist(), strict=True)
    )  # fmt: skip
    base = generator.lognormal(-1.6, 0.8, count)
    phase, memory = generator.random(count), generator.uniform(0.1, 1.5, count)
    floor = np.stack((np.full(count, 0.02), memory * 0.5), axis=1)
    ceiling = np.tile([8.0, 8.0], (count, 1))
    state = new_state(node, floor, ceiling, priority=generator.integers(0, 101, count).astype(np.float64))
    capacity = np.tile([params.cores, params.memory_gib], (params.nodes, 1))
    limits = LimitParams(stale_s=3 * params.tick_s)
    unmet, whole, changes, over, moved = 0.0, 0.0, 0, 0, 0
    for tick in range(params.ticks):
        now = tick * params.tick_s
        if tick in dies:
            dead = dies[tick]
            alive[dead] = False
            lost = np.flatnonzero(state.node == dead)
            placed = state.node.copy()
            placed[lost] = generator.choice(np.flatnonzero(alive), lost.size)
            given = state.guarantee.copy()
            given[lost] = 0.0  # started anew: nothing is promised there before it is decided
            state = replace(state, node=placed, guarantee=given)
            moved += lost.size
        wave = 1 + 0.5 * np.sin(2 * np.pi * (now / 86400 + phase))
        demand = base * wave * generator.lognormal(0, 0.3, count) * np.where(generator.random(count) < 0.01, 4.0, 1.0)
        got = lend(demand, state.guarantee[:, CPU], state.ceiling[:, CPU], state.weight, state.node, capacity[:, CPU])
        unmet += float((demand - got).sum())
        whole += float(demand.sum())
        state = replace(
            state,
            usage=np.stack((got, memory), axis=1),
            lacked=np.stack((demand - got, np.zeros(count)), axis=1),
            measured_s=np.full(count, now),
        )
        decision = decide_limits(state, capacity, now, limits)
        changes += decision.order.size
        state = decision.state
        for resource in (CPU, MEMORY):
            total = np.bincount(state.node, weights=state.guarantee[:, resource], minlength=params.nodes)
            over += int((total > capacity[:, resource] * (1 + 1e-9)).sum())
    return FleetResult(unmet / whole, changes, over, moved)
