"""The evaluation of rarely used functions: keep and prewarm windows beside a fixed keep-alive and the hybrid histogram."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from msgspec import Struct

from shardwright.contracts.forecast import BoolArray, FloatArray
from shardwright.simulation._functions import (
    CLASSES,
    DAY_S,
    Function,
    WindowRule,
    fixed_windows,
    hybrid_histogram,
    least_cost_windows,
    of_kind,
    replay_windows,
    synthetic_functions,
    usual_gaps,
)

AIM = 0.97  # of the comparator's idleness, on other functions
_ALONE = "not periodic, alone"
# of the comparator's starts, at most; where the measured price of a hidden start leads to more, it is reckoned dearer
MOST_STARTS = {("fixed 10 min", ""): 8.0, ("hybrid histogram", ""): 2.5, ("fixed 10 min", _ALONE): 1.5}
AIM_STARTS, DEARER = 0.9, 1.6
COLD_CHOICES_S = tuple(round(100 * 1.1**step) for step in range(75))  # 100 to 116,000


class FunctionRow(Struct, frozen=True):
    """Of one group of functions: visible colds, starts and idle-seconds over those of the comparator."""

    comparator: str
    group: str
    functions: int
    visible: float
    starts: float
    idle: float


def evaluate_functions(
    folder: str | Path,
    *,
    count: int,
    days: float,
    seeds: Sequence[int],
    hidden_s: float,
    start_s: float,
    tune_count: int = 500,
    say: Callable[[str], None] = lambda _: None,
) -> list[FunctionRow]:
    """Means over the seeds. For each comparator the price of a cold start is the largest that used no more than ``AIM`` of its
    idleness on ``tune_count`` other functions, and that of a hidden one ``hidden_s``, or more where that led to more starts
    than ``MOST_STARTS``. "not periodic, alone" are those without the periodic ones, with a price of
    their own: so idleness that the periodic ones save is not spent on them.
    """
    split = 0.4 * days * DAY_S
    others = synthetic_functions(folder, tune_count, days, 99)
    cases = {
        ("fixed 10 min", ""): fixed_windows(600.0),
        ("hybrid histogram", ""): hybrid_histogram(),
        ("fixed 10 min", _ALONE): fixed_windows(600.0),
    }
    prices = {}
    for (name, alone), rule in cases.items():
        tuning = [f for f in others if not alone or f.kind != "periodic"]
        prices[name, alone] = _tuned(
            tuning, rule, usual_gaps(tuning, split), split, hidden_s, start_s, MOST_STARTS[name, alone]
        )
    say(f"prices tuned: {list(prices.values())}")
    sums: dict[tuple[str, str], list[FloatArray]] = {}
    sizes: dict[str, int] = {}
    for seed in seeds:
        functions = synthetic_functions(folder, count, days, seed)
        for (name, alone), rule in cases.items():
            chosen = [f for f in functions if not alone or f.kind != "periodic"]
            theirs = _table(chosen, rule, start_s, split)
            prior = usual_gaps(chosen, split)
            own = least_cost_windows(
                prior, cold_s=prices[name, alone][0], hidden_s=prices[name, alone][1], start_s=start_s
            )
            mine = _table(chosen, own, start_s, split)
            for group, members in _groups(chosen, alone).items():
                ratio = mine[members].sum(axis=0) / np.maximum(theirs[members].sum(axis=0), 1.0)
                sums.setdefault((name, group), []).append(ratio)
                sizes[group] = int(members.sum())
        say(f"seed {seed}: {sum(f.gaps_s.size for f in functions):,} gaps of {count} functions")
    return [
        FunctionRow(name, group, sizes[group], *(float(v) for v in np.mean(rows, axis=0)))
        for (name, group), rows in sums.items()
    ]


def _groups(functions: list[Function], alone: str) -> dict[str, BoolArray]:
    everybody = np.ones(len(functions), dtype=bool)
    if alone:
        return {alone: everybody}
    kinds = {kind: of_kind(functions, kind) for kind in CLASSES}
    return {"all": everybody, **kinds, "not periodic": ~kinds["periodic"]}


def _table(functions: list[Function], rule: WindowRule, start_s: float, score_from_s: float) -> FloatArray:
    """Visible, starts, idle a function."""
    outcomes = replay_windows(functions, rule, start_s, score_from_s)
    return np.array([(o.visible, o.starts, o.idle_s) for o in outcomes])


def _tuned(
    functions: list[Function],
    rule: WindowRule,
    prior: FloatArray,
    score_from_s: float,
    hidden_s: float,
    start_s: float,
    most_starts: float,
) -> tuple[float, float]:
    """Prices of a cold and of a hidden start: idleness is kept by the first, and the number of starts by the second."""
    theirs = _table(functions, rule, start_s, score_from_s).sum(axis=0)

    def taken(cold_s: float, hidden_s: float) -> FloatArray:
        own = least_cost_windows(prior, cold_s=cold_s, hidden_s=hidden_s, start_s=start_s)
        result: FloatArray = _table(functions, own, start_s, score_from_s).sum(axis=0)
        return result

    while True:
        # idleness grows with the price of a cold start
        within = bisect_right(COLD_CHOICES_S, theirs[2] * AIM, key=partial(_idle_s, taken, hidden_s))
        cold_s = COLD_CHOICES_S[max(within - 1, 0)]
        if taken(cold_s, hidden_s)[1] <= most_starts * AIM_STARTS * theirs[1] or hidden_s >= cold_s:
            return cold_s, hidden_s
        hidden_s *= DEARER


def _idle_s(taken: Callable[[float, float], FloatArray], hidden_s: float, cold_s: float) -> float:
    return float(taken(cold_s, hidden_s)[2])
