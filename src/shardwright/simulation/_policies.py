"""What the warm pool is compared with: keep-alives, the hybrid histogram, a season ago, greedy dual, and those who know."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from shardwright.contracts.forecast import FloatArray
from shardwright.simulation._demand import Sessions
from shardwright.simulation._functions import Function, hybrid_histogram, replay_windows
from shardwright.simulation._levels import (
    LevelGaps,
    Outcome,
    clairvoyant,
    keep_alive,
    level_gaps,
    prewarming_clairvoyant,
)

FIXED_S = {"none": 0.0, "fixed 1 min": 60.0, "fixed 10 min": 600.0, "fixed 60 min": 3600.0}


def closed_form(sessions: Sessions, cold_s: float, hidden_s: float, start_s: float) -> dict[str, Outcome]:
    """Every policy that needs no replay, by its name."""
    gaps = level_gaps(sessions)
    outcomes = {name: keep_alive(gaps, keep, start_s) for name, keep in FIXED_S.items()}
    outcomes["ski rental"] = keep_alive(gaps, cold_s, start_s)
    outcomes["hybrid histogram"] = _hybrid(gaps, start_s)
    outcomes["seasonal-naive"] = seasonal_naive(sessions, start_s)
    outcomes["clairvoyant, no prewarming"] = clairvoyant(gaps, cold_s, start_s)
    outcomes["clairvoyant"] = prewarming_clairvoyant(gaps, cold_s, hidden_s, start_s)
    return outcomes


def _hybrid(gaps: LevelGaps, start_s: float) -> Outcome:
    """Its windows over the gaps of all levels together, learnt in the order in which gaps end."""
    used = np.flatnonzero(gaps.used)
    ends = gaps.begin_s[used] + gaps.length_s[used]
    order = used[np.argsort(ends, kind="stable")]
    function = Function("", "", gaps.length_s[order], gaps.begin_s[order])
    [outcome] = replay_windows([function], hybrid_histogram(), start_s, gaps.score_from_s)
    first = int((gaps.first_at_s >= gaps.score_from_s).sum())
    return Outcome(outcome.visible + first, outcome.hidden, outcome.starts + first, outcome.idle_s + first * start_s)


def seasonal_naive(sessions: Sessions, start_s: float, *, step_s: float = 300.0, season_s: float = 86400.0) -> Outcome:
    """In each five minutes as many shards as were busy at once in the same five minutes of the day before, at least.

    Before a day has passed, as many as in the five minutes before. Shards are kept until the end of the step.
    """
    steps = max(1, int(np.ceil(sessions.length_s / step_s)))
    edges = np.arange(steps) * step_s
    level_at_edge = np.concatenate(([0], sessions.at_once))[np.searchsorted(sessions.events_s, edges, side="right")]
    times = np.concatenate((edges, sessions.events_s))
    levels = np.concatenate((level_at_edge, sessions.at_once))
    begins = np.concatenate((np.zeros(steps, dtype=bool), sessions.begins))
    order = np.argsort(times, kind="stable")
    times, levels, begins = times[order], levels[order], begins[order]
    step = np.minimum((times / step_s).astype(np.int64), steps - 1)
    first = np.flatnonzero(np.concatenate(([True], step[1:] != step[:-1])))
    most = np.maximum.reduceat(levels, first)
    season = int(season_s / step_s)
    past = np.concatenate(([0], most[:-1]))
    target = np.where(np.arange(steps) >= season, np.roll(most, season), past) if steps > season else past
    # within a step the pool grows with what arrives
    offset = step * (int(levels.max(initial=0)) + 1)
    highest = np.maximum.accumulate(levels + offset) - offset
    pool = np.maximum(target[step], highest)
    before = np.concatenate(([0], pool[:-1]))
    cold = begins & (levels > np.where(np.concatenate(([True], step[1:] != step[:-1])), target[step], before))
    scored = times >= sessions.score_from_s
    following = np.concatenate((times[1:], [sessions.length_s]))
    idle = ((pool - levels) * np.maximum(following - np.maximum(times, sessions.score_from_s), 0.0)).sum()
    last_pool = np.concatenate(([0], np.maximum(target, most)[:-1]))
    ahead = np.maximum(target - np.maximum(last_pool, level_at_edge), 0)[edges >= sessions.score_from_s].sum()
    visible = int((cold & scored).sum())
    return Outcome(visible, float(ahead), float(visible + ahead), float(idle + (visible + ahead) * start_s))


def greedy_dual(fleet: Sequence[Sessions], memory: int, start_s: float) -> list[Outcome]:
    """Keep all that fits ``memory`` idle shards of the fleet together; beyond, drop the lowest priority first.

    Priority is clock + frequency x cost / size, cost and size alike for all (FaasCache, Fuerst and Sharma, ASPLOS 2021).
    """
    times = np.concatenate([s.events_s for s in fleet])
    which = np.concatenate([np.full(s.events_s.size, n) for n, s in enumerate(fleet)])
    begins = np.concatenate([s.begins for s in fleet])
    order = np.argsort(times, kind="stable")
    clock, idle_count, serial = 0.0, 0, 0
    uses = [0] * len(fleet)
    idle: list[list[int]] = [[] for _ in fleet]  # serial numbers, latest last
    since: dict[int, tuple[float, int]] = {}
    queue: list[tuple[float, int]] = []
    colds, lain = [0] * len(fleet), [0.0] * len(fleet)

    def spend(component: int, begin: float, end: float) -> None:
        lain[component] += max(0.0, end - max(begin, fleet[component].score_from_s))

    for at, component, begin in zip(times[order].tolist(), which[order].tolist(), begins[order].tolist(), strict=True):
        if begin:
            uses[component] += 1
            stack = idle[component]
            while stack and stack[-1] not in since:
                stack.pop()
            if stack:
                begun, _ = since.pop(stack.pop())
                idle_count -= 1
                spend(component, begun, at)
            elif at >= fleet[component].score_from_s:
                colds[component] += 1
            continue
        serial += 1
        idle[component].append(serial)
        since[serial] = (at, component)
        idle_count += 1
        heapq.heappush(queue, (clock + uses[component], serial))
        while idle_count > memory:
            priority, victim = heapq.heappop(queue)
            if victim in since:
                begun, owner = since.pop(victim)
                clock = max(clock, priority)
                idle_count -= 1
                spend(owner, begun, at)
    for begun, owner in since.values():
        spend(owner, begun, fleet[owner].length_s)
    return [Outcome(c, 0, c, lain[n] + c * start_s) for n, c in enumerate(colds)]


def relative(outcomes: Sequence[Outcome], base: Sequence[Outcome], cold_s: float, hidden_s: float) -> FloatArray:
    """Cost over the cost of ``base``, component by component."""
    return np.array([o.cost(cold_s, hidden_s) / b.cost(cold_s, hidden_s) for o, b in zip(outcomes, base, strict=True)])
