"""Rarely used functions: synthetic demand from published distributions, and policies of keep and prewarm windows.

No public trace of single functions of real size could be had, so their demand is made here, and is labelled synthetic:
invocations a day, variation of the gaps between them, and run times are drawn from the distributions that ServerlessBench
published of Azure Functions 2019. One function is one component with one shard: runs that would overlap are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from msgspec import Struct

from shardwright.contracts.forecast import BoolArray, FloatArray, IntArray
from shardwright.controller import Windows, choose_windows
from shardwright.forecast import IdleGaps, thinned
from shardwright.simulation._levels import Outcome
from shardwright.simulation._traces import read_distribution

DAY_S = 86400.0
CLASSES = ("periodic", "Poisson-like", "bursty")
_PERIODIC_BELOW, _BURSTY_FROM = 0.25, 1.25  # variation of gaps


class Function(Struct, frozen=True):
    """Idle gaps of one function, in order, and when each began."""

    name: str
    kind: str
    gaps_s: FloatArray
    begins_s: FloatArray


def synthetic_functions(folder: str | Path, count: int, days: float, seed: int) -> list[Function]:
    """``count`` functions that run at least once a day and at most once a minute, over ``days``.

    ``folder`` holds invokesCDF.csv, CVs.csv and execTimeCDF.csv. Gaps are gamma distributed with the drawn variation;
    those with none tick like a clock, to half a second.
    """
    generator = np.random.default_rng([seed, 2019])
    folder = Path(folder)
    a_day = _draw(*read_distribution(folder / "invokesCDF.csv"), generator, count, low=1.0, high=1440.0)
    variation = _draw(*read_distribution(folder / "CVs.csv"), generator, count)
    run_s = _draw(*read_distribution(folder / "execTimeCDF.csv"), generator, count) / 1000
    functions = []
    for number in range(count):
        period, cv, end = DAY_S / a_day[number], float(variation[number]), days * DAY_S
        wanted = int(end / period * 1.5 + 50 * (1 + cv))
        if cv < 0.01:
            between = np.maximum(period + generator.normal(0, 0.5, wanted), 1.0)
        else:
            shape = 1 / cv**2
            between = generator.gamma(shape, period / shape, wanted)
        at = generator.random() * period + np.cumsum(between)
        at = at[at < end]
        ends = np.minimum(at[:-1] + run_s[number], at[1:]) if at.size > 1 else at[:0]
        kind = CLASSES[0] if cv < _PERIODIC_BELOW else CLASSES[2] if cv >= _BURSTY_FROM else CLASSES[1]
        gaps = at[1:] - ends if at.size > 1 else at[:0]
        functions.append(Function(f"function {number}", kind, gaps, ends))
    return functions


def _draw(
    values: FloatArray, shares: FloatArray, generator: np.random.Generator, count: int, *, low: float = -np.inf,
    high: float = np.inf,
) -> FloatArray:  # fmt: skip
    first = np.interp(low, values, shares) if np.isfinite(low) else 0.0
    last = np.interp(high, values, shares) if np.isfinite(high) else 1.0
    unit = np.concatenate(([0.0], shares)), np.concatenate(([values[0]], values))
    return np.interp(first + generator.random(count) * (last - first), *unit)


WindowRule = Callable[[Function], Windows]  # one window for each gap, from the gaps before it alone


def replay_windows(functions: list[Function], rule: WindowRule, start_s: float, score_from_s: float) -> list[Outcome]:
    """What each function's windows came to, over the gaps that end in the scored part."""
    results = []
    for function in functions:
        windows = rule(function)
        gaps = function.gaps_s
        scored = function.begins_s + gaps >= score_from_s
        cold = ~windows.warm_after(gaps) & scored
        idle = windows.idle_s(gaps, start_s)
        # of a gap that began before, only what lies in the scored part
        idle = np.where(scored, np.minimum(idle, function.begins_s + gaps - score_from_s), 0.0)
        hidden = windows.hidden_start(gaps, start_s) & scored
        results.append(
            Outcome(
                float(cold.sum()), float(hidden.sum()), float(cold.sum() + hidden.sum()),
                float(idle.sum() + cold.sum() * start_s),
            )
        )  # fmt: skip
    return results


def fixed_windows(keep_s: float) -> WindowRule:
    """A plain keep-alive."""

    def rule(function: Function) -> Windows:
        size = function.gaps_s.size
        return Windows(np.full(size, keep_s), np.full(size, np.inf), np.full(size, np.inf))

    return rule


def hybrid_histogram(range_s: float = 4 * 3600.0) -> WindowRule:
    """The hybrid histogram policy of Azure Functions (Shahrad et al., USENIX ATC 2020).

    One-minute bins over four hours; back at the 5th percentile less 10 %, until the 99th plus 10 %. A histogram that is not
    representative (variation of its bin counts below 2) means keeping for the whole range. If more than half of the gaps lie
    outside the range, the next gap is forecast (as the mean of the last ones, in place of ARIMA) within 15 %.
    """
    bins = int(range_s / 60)

    def window(past: FloatArray) -> tuple[float, float, float]:
        inside = past[past < range_s]
        if past.size and inside.size * 2 < past.size:
            expected = float(past[-10:].mean())
            return 0.0, 0.85 * expected, 1.15 * expected
        counts = np.bincount((inside / 60).astype(np.int64), minlength=bins)
        if inside.size < 2 or counts.std() < 2 * counts.mean():
            return range_s, np.inf, np.inf
        cumulated = np.cumsum(counts)
        head = float(np.searchsorted(cumulated, 0.05 * inside.size)) * 60 * 0.9
        tail = (float(np.searchsorted(cumulated, 0.99 * inside.size)) + 1) * 60 * 1.1
        return (tail, np.inf, np.inf) if head < 60 else (0.0, head, tail)

    def rule(function: Function) -> Windows:
        at = _decided(function.gaps_s.size)
        chosen = np.array([window(function.gaps_s[:number]) for number in at.tolist()]).reshape(at.size, 3)
        which = np.searchsorted(at, np.arange(function.gaps_s.size), side="right") - 1
        return Windows(*chosen[which].T)

    return rule


def _decided(size: int) -> IntArray:
    """After how many gaps a window is decided anew: each of the first 16, then ever more rarely, to save time."""
    later = np.unique(np.geomspace(16, max(size, 17), 40).astype(np.int64)).tolist()
    return np.array([number for number in [*range(16), *later] if number < size], dtype=np.int64)


def least_cost_windows(
    prior_s: Mapping[str, FloatArray] | FloatArray,
    *,
    cold_s: float,
    hidden_s: float,
    start_s: float,
    remember: int = 400,
    prior_weight: float = 10.0,
) -> WindowRule:
    """The node's own rule. To save time a window is decided anew after each of 16 gaps, then ever more rarely."""
    prior = np.asarray(prior_s, dtype=np.float64)

    def rule(function: Function) -> Windows:
        gaps = function.gaps_s
        size = gaps.size
        at = _decided(size)
        if not at.size:
            return Windows(np.empty(0), np.empty(0), np.empty(0))
        past = np.stack([thinned(gaps[max(0, number - remember) : number]) for number in at.tolist()])
        windows = choose_windows(
            past, prior, cold_s=cold_s, hidden_s=hidden_s, start_s=start_s, prior_weight=prior_weight,
            counts=at.astype(np.float64),
        )  # fmt: skip
        which = np.searchsorted(at, np.arange(size), side="right") - 1
        return Windows(windows.keep_s[which], windows.again_s[which], windows.until_s[which])

    return rule


def usual_gaps(functions: list[Function], until_s: float, samples: int = 12) -> FloatArray:
    """The gaps that are usual among all functions, from what had happened until then."""
    gaps = IdleGaps(len(functions))
    for number, function in enumerate(functions):
        seen = function.gaps_s[function.begins_s + function.gaps_s < until_s]
        gaps.observe(np.full(seen.size, number), seen)
    return gaps.population(samples)


def of_kind(functions: list[Function], kind: str) -> BoolArray:
    return np.array([function.kind == kind for function in functions])
