"""``bench fleet``: what deciding costs, on one core: one tick for many shards, and an hour of a whole fleet."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np
from msgspec.structs import replace

from shardwright.controller import CPU, MEMORY, LimitParams, LimitState, decide_limits, lend, new_state
from shardwright.simulation import FleetParams, run_fleet

SIZES = (1_000, 10_000, 100_000)
_CORES_A_SHARD, _GIB_A_SHARD = 0.32, 1.3  # less than all would like at times: somebody has to be refused


def measure(params: FleetParams, rounds: int, told: Callable[[str], None]) -> list[dict[str, Any]]:
    """The records of all cases. What this process is held to while they run is one core."""
    with _one_core():
        records = []
        for shards in SIZES:
            for nodes in (1, shards // 100):
                told(f"a tick for {shards:,} shards on {nodes:,} nodes")
                records.append(_tick(shards, nodes, rounds))
        told(f"{params.ticks} ticks of {params.tick_s:g} s for {params.shards:,} shards on {params.nodes:,} nodes")
        wall_s, cpu_s = time.monotonic(), time.process_time()
        found = run_fleet(params, 0)
        records.append({
            "case": "fleet",
            "shards": params.shards,
            "nodes": params.nodes,
            "ticks": params.ticks,
            "simulated_s": params.ticks * params.tick_s,
            "took_s": round(time.monotonic() - wall_s, 4),
            "cpu_s": round(time.process_time() - cpu_s, 4),
            "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            "unmet_percent": round(100 * found.unmet, 4),
            "overcommitted": found.overcommitted,
        })  # fmt: skip
    return records


def _tick(shards: int, nodes: int, rounds: int) -> dict[str, Any]:
    """CPU time of decisions, one after another over a demand that changes; the first, of a cold cache, is left out."""
    generator = np.random.default_rng(shards)
    state, capacity = _begin(shards, nodes, generator)
    took_s: list[float] = []
    changed = 0
    for number in range(rounds + 1):
        now = 10.0 * number
        state = _seen(state, capacity, now, generator)
        begun_s = time.process_time()
        decision = decide_limits(state, capacity, now, LimitParams(stale_s=30.0))
        took_s.append(time.process_time() - begun_s)
        changed += decision.order.size
        state = decision.state
    return {
        "case": "tick",
        "shards": shards,
        "nodes": nodes,
        "rounds": rounds,
        "changed_a_tick": round(changed / (rounds + 1), 1),
        "p50_ms": round(median(took_s[1:]) * 1e3, 3),
        "max_ms": round(max(took_s[1:]) * 1e3, 3),
        "us_a_shard": round(median(took_s[1:]) * 1e6 / shards, 3),
    }


def _begin(shards: int, nodes: int, generator: np.random.Generator) -> tuple[LimitState, Any]:
    memory = generator.uniform(0.1, 1.5, shards)
    state = new_state(
        np.arange(shards) % nodes,
        np.stack((np.full(shards, 0.02), memory * 0.5), axis=1),
        np.tile([8.0, 8.0], (shards, 1)),
        priority=generator.integers(0, 101, shards).astype(np.float64),
    )
    each = shards / nodes
    capacity = np.tile([_CORES_A_SHARD * each, _GIB_A_SHARD * each], (nodes, 1))
    return replace(state, usage=np.stack((np.zeros(shards), memory), axis=1)), capacity


def _seen(state: LimitState, capacity: Any, now: float, generator: np.random.Generator) -> LimitState:
    demand = generator.lognormal(-1.6, 0.8, state.count)
    got = lend(demand, state.guarantee[:, CPU], state.ceiling[:, CPU], state.weight, state.node, capacity[:, CPU])
    return replace(
        state,
        usage=np.stack((got, state.usage[:, MEMORY]), axis=1),
        lacked=np.stack((demand - got, np.zeros(state.count)), axis=1),
        measured_s=np.full(state.count, now),
    )


@contextmanager
def _one_core() -> Iterator[None]:
    """Where a process can be held to a core; elsewhere the arithmetic runs on one thread anyhow."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
