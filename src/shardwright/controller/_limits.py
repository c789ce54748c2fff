"""Guarantees and ceilings of running shards: what each is given, of CPU and memory, on every node at once.

A state is arrays with one entry a shard; a decision is the same arrays, changed, in an order in which no single actuation
promises more than a node has. Long because the steps of one decision are best read in their order.

1. Need: what a shard takes, was kept from taking (throttled) and has queued; or more, if so forecast. Metrics that are
   stale, missing or absurd freeze the shard as it is.
2. Wish: up at once when the need outgrows the guarantee, down only when it has been less for ``calm_s``, by a bounded step;
   small differences are left alone. Memory never goes below the working set and a margin; after an out-of-memory kill it
   goes up by 1.2 and stays.
3. Share: floors first, then tiers of priority (a wish that waits rises by a tier each ``age_s``), fairly within a tier.
4. Order: what sinks is done first; what rises is done when there is room for it.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from shardwright.contracts.forecast import BoolArray, FloatArray, IntArray
from shardwright.controller._fairness import dominant_shares, max_min

CPU, MEMORY = 0, 1


class LimitParams(Struct, frozen=True):
    """``margin`` is kept above a need; a wish within ``deadband`` of the guarantee is left alone (shares of it)."""

    margin: float = 0.15
    deadband: float = 0.1
    calm_s: float = 120.0
    sink: float = 0.3  # the most that a guarantee sinks by at once
    rest_s: float = 10.0  # at least so long between two raises, while what is lent suffices
    memory_margin: float = 0.1
    oom_factor: float = 1.2
    oom_hold_s: float = 3600.0
    stale_s: float = 10.0
    tiers: int = 4
    age_s: float = 300.0

    def __post_init__(self) -> None:
        if not (0 <= self.deadband < 1 and 0 < self.sink <= 1 and self.tiers >= 1 and self.oom_factor > 1):
            raise ValueError(f"deadband and sink are shares, tiers at least 1, oom_factor above 1; got {self}")


class LimitState(Struct, frozen=True):
    """One entry a shard; amounts have a column for CPU (cores) and one for memory (GiB).

    ``usage`` is what it takes, ``lacked`` what it was kept from taking: throttled, waiting for a core, queued. ``measured_s``
    is when. ``forecast`` is what it is about to need, NaN where nobody knows. ``floor`` and ``ceiling`` are the manifest's.
    ``short_since_s`` is since when its wish is not granted, infinite if it is; ``oom_s`` when it was last killed for memory.
    """

    node: IntArray
    priority: FloatArray
    weight: FloatArray
    usage: FloatArray
    lacked: FloatArray
    measured_s: FloatArray
    forecast: FloatArray
    floor: FloatArray
    ceiling: FloatArray
    guarantee: FloatArray
    high_since_s: FloatArray  # since when the need was last near the guarantee: what sinks waits from there
    raised_s: FloatArray
    short_since_s: FloatArray
    oom_s: FloatArray

    @property
    def count(self) -> int:
        return int(self.node.size)


def new_state(
    node: IntArray, floor: FloatArray, ceiling: FloatArray, *, priority: FloatArray | float = 50.0, now: float = 0.0
) -> LimitState:
    """Shards that have just begun, at their floors, of which nothing was measured yet."""
    count = node.size
    never = np.full(count, -np.inf)
    return LimitState(
        node=node, priority=np.broadcast_to(np.asarray(priority, dtype=np.float64), (count,)).copy(),
        weight=np.ones(count), usage=np.full((count, 2), np.nan), lacked=np.zeros((count, 2)), measured_s=never.copy(),
        forecast=np.full((count, 2), np.nan), floor=floor, ceiling=ceiling, guarantee=floor.copy(),
        high_since_s=np.full((count, 2), now), raised_s=np.full((count, 2), -np.inf), short_since_s=np.full(count, np.inf),
        oom_s=never.copy(),
    )  # fmt: skip


class LimitDecision(Struct, frozen=True):
    """``state`` as it is once everything is done; ``order`` are the shards to change, those that sink first.

    ``wish`` is what each would have got if there were enough. ``reason`` has a code for each shard, see ``REASONS``.
    """

    state: LimitState
    order: IntArray
    wish: FloatArray
    reason: IntArray


REASONS = ("as it is", "needs more", "needs less", "killed for memory", "metrics are stale", "there is not enough")


def decide_limits(state: LimitState, capacity: FloatArray, now: float, params: LimitParams) -> LimitDecision:
    """What every shard should be guaranteed. ``capacity`` has a row a node: what may be promised there.

    Guarantees of a node sum to no more than its capacity if the floors do; if not even they do, they are cut fairly.
    """
    need, sound = _need(state, now, params)
    wish, high_since = _wish(state, need, sound, now, params)
    granted = _share(state, wish, capacity, now, params)
    keeps = ~_differs(granted, state.guarantee, 1e-9)
    granted = np.where(keeps, state.guarantee, granted)
    granted = _fitted(state, granted, capacity)
    lacks = (granted < wish * (1 - 1e-6)).any(axis=1)
    rises, sinks = granted > state.guarantee, granted < state.guarantee
    reason = np.select(
        [
            ~sound,
            lacks,
            rises.any(axis=1) & (now - state.oom_s < params.oom_hold_s),
            rises.any(axis=1),
            sinks.any(axis=1),
        ],
        [4, 5, 3, 1, 2],
        0,
    )
    after = replace(
        state,
        guarantee=granted,
        high_since_s=np.where(sinks, now, high_since),
        raised_s=np.where(rises, now, state.raised_s),
        short_since_s=np.where(lacks, np.minimum(state.short_since_s, now), np.inf),
    )
    changed = np.flatnonzero((rises | sinks).any(axis=1))
    # a shard of which one resource sinks and another rises is among the rising ones; see actuations
    order = changed[np.lexsort((changed, -state.priority[changed], rises[changed].any(axis=1)))]
    return LimitDecision(after, order, wish, reason)


def actuations(before: FloatArray, decision: LimitDecision) -> list[tuple[int, int, float]]:
    """Single steps (shard, resource, new guarantee), all that sink before any that rises."""
    after = decision.state.guarantee
    steps = [
        (int(i), r, float(after[i, r])) for i in decision.order for r in (CPU, MEMORY) if after[i, r] != before[i, r]
    ]
    return sorted(steps, key=lambda step: step[2] > before[step[0], step[1]])


def may_raise(
    applied: FloatArray, node: IntArray, capacity: FloatArray, shard: int, resource: int, amount: float
) -> bool:
    """Whether that one raise keeps its node's promises, given what is really applied (read back) now.

    False after a sinking step failed, until it has succeeded: the rest of a decision may then be done without it.
    """
    there = node == node[shard]
    others = float(applied[there, resource].sum() - applied[shard, resource])
    return others + amount <= float(capacity[node[shard], resource]) * (1 + 1e-9)


def lend(
    demand: FloatArray,
    guarantee: FloatArray,
    ceiling: FloatArray,
    weight: FloatArray,
    node: IntArray,
    capacity: FloatArray,
) -> FloatArray:
    """What each really gets of one resource: its guarantee as far as it asks for it, and idle capacity by weight up to
    its ceiling. So does a kernel's scheduler with weights; here for decisions and simulation.
    """
    own = np.minimum(demand, guarantee)
    idle = np.maximum(capacity - np.bincount(node, weights=own, minlength=capacity.size), 0.0)
    more = np.maximum(np.minimum(demand, np.maximum(ceiling, guarantee)) - own, 0.0)
    result: FloatArray = own + max_min(more, weight, node, idle)
    return result


def _need(state: LimitState, now: float, params: LimitParams) -> tuple[FloatArray, BoolArray]:
    usage = np.where(np.isfinite(state.usage) & (state.usage >= 0), state.usage, np.nan)
    lacked = np.where(np.isfinite(state.lacked) & (state.lacked >= 0), state.lacked, 0.0)
    sound = (now - state.measured_s <= params.stale_s) & ~np.isnan(usage).any(axis=1)
    forecast = np.where(np.isfinite(state.forecast) & (state.forecast >= 0), state.forecast, 0.0)
    need = np.maximum(np.where(np.isnan(usage), 0.0, usage) + lacked, forecast)
    return need, sound


def _wish(
    state: LimitState, need: FloatArray, sound: BoolArray, now: float, params: LimitParams
) -> tuple[FloatArray, FloatArray]:
    margin = np.array([params.margin, params.memory_margin])
    # killed for memory: whatever was measured was not all that it needed
    killed = now - state.oom_s < params.oom_hold_s
    fresh = killed & (state.oom_s > state.raised_s[:, MEMORY])
    aim = need * (1 + margin)
    held = np.where(fresh, state.guarantee[:, MEMORY] * params.oom_factor, state.guarantee[:, MEMORY])
    aim[:, MEMORY] = np.where(killed, np.maximum(aim[:, MEMORY], held), aim[:, MEMORY])
    floor = np.minimum(state.floor, state.ceiling)
    # never below the working set: a ceiling that is smaller is the manifest's own word
    aim = np.clip(aim, floor, state.ceiling)
    now_given = state.guarantee
    near = aim > now_given * (1 - params.deadband)
    high_since = np.where(near, now, state.high_since_s)
    suffices = (state.lacked <= 1e-9) & (now - state.raised_s < params.rest_s)
    up = (aim > now_given * (1 + params.deadband * 0.2)) & (need > now_given) & ~suffices
    up |= (aim > now_given) & (now_given < floor)
    up[:, MEMORY] |= fresh
    down = ~near & (now - high_since >= params.calm_s)
    lowered = np.maximum(aim, now_given * (1 - params.sink))
    wish = np.where(up, aim, np.where(down, lowered, now_given))
    wish = np.where(sound[:, None], wish, now_given)
    wish[:, MEMORY] = np.where(fresh, aim[:, MEMORY], wish[:, MEMORY])
    return wish, high_since


def _share(state: LimitState, wish: FloatArray, capacity: FloatArray, now: float, params: LimitParams) -> FloatArray:
    """Floors, then by tier what is left; only nodes on which the wishes do not fit are looked at."""
    nodes = capacity.shape[0]
    wanted = np.stack([np.bincount(state.node, weights=wish[:, r], minlength=nodes) for r in (CPU, MEMORY)], axis=1)
    tight: BoolArray = np.asarray((wanted > capacity).any(axis=1))
    if not tight.any():
        return wish
    rows = np.flatnonzero(tight[state.node])
    node, asked = state.node[rows], wish[rows]
    floor = np.minimum(np.minimum(state.floor[rows], state.ceiling[rows]), asked)
    given = np.stack([max_min(floor[:, r], state.weight[rows], node, capacity[:, r]) for r in (CPU, MEMORY)], axis=1)
    waited = np.where(np.isfinite(state.short_since_s[rows]), now - state.short_since_s[rows], 0.0)
    # finite: with age everybody reaches the highest tier, and there shares fairly
    tier = np.minimum(np.floor(state.priority[rows] * params.tiers / 100.0001), params.tiers - 1)
    tier = np.minimum(tier + np.floor(waited / params.age_s), params.tiers - 1)
    for current in range(params.tiers - 1, -1, -1):
        members = np.flatnonzero(tier == current)
        if not members.size:
            continue
        used = np.stack([np.bincount(node, weights=given[:, r], minlength=nodes) for r in (CPU, MEMORY)], axis=1)
        left = np.maximum(capacity - used, 0.0)
        more = np.maximum(asked[members] - given[members], 0.0)
        given[members] += dominant_shares(more, state.weight[rows][members], node[members], left)
    granted = wish.copy()
    granted[rows] = given
    return granted


def _fitted(state: LimitState, granted: FloatArray, capacity: FloatArray) -> FloatArray:
    """Rounding, and what was left as it is, must not sum to more than there is."""
    for resource in (CPU, MEMORY):
        total = np.bincount(state.node, weights=granted[:, resource], minlength=capacity.shape[0])
        over = total > capacity[:, resource]
        if over.any():
            scale = np.where(over, capacity[:, resource] / np.maximum(total, 1e-300) * (1 - 1e-12), 1.0)
            granted[:, resource] *= scale[state.node]
    return granted


def _differs(one: FloatArray, other: FloatArray, share: float) -> BoolArray:
    return np.abs(one - other) > share * np.maximum(np.abs(one), np.abs(other))
