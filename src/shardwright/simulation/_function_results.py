"""The evaluation of rarely used functions: keep and prewarm windows beside a fixed keep-alive and the hybrid histogram."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shardwright.contracts.forecast import FloatArray
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

COLD_CHOICES_S = tuple(round(1_000 * 1.12**step, -1) for step in range(40))  # 1,000 to 83,000


@dataclass(frozen=True, slots=True)
class FunctionRow:
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
    tune_count: int = 400,
    say: Callable[[str], None] = lambda _: None,
) -> list[FunctionRow]:
    """Means over the seeds. For each comparator the price of a cold start is the largest that, in the first 40 %, used no
    more than 92 % of its idleness.
    """
    comparators = {"fixed 10 min": fixed_windows(600.0), "hybrid histogram": hybrid_histogram()}
    split = 0.4 * days * DAY_S
    tuning = [_until(function, split) for function in synthetic_functions(folder, tune_count, days, 99)]
    prior = usual_gaps(tuning, split / 2)
    prices = {name: _tuned(tuning, rule, prior, split / 2, hidden_s, start_s) for name, rule in comparators.items()}
    say(f"prices tuned: {prices}")
    sums: dict[tuple[str, str], list[FloatArray]] = {}
    sizes: dict[str, int] = {}
    for seed in seeds:
        functions = synthetic_functions(folder, count, days, seed)
        prior = usual_gaps(functions, split)
        groups = {"all": np.ones(count, dtype=bool), **{kind: of_kind(functions, kind) for kind in CLASSES}}
        groups["not periodic"] = ~groups["periodic"]
        for name, rule in comparators.items():
            theirs = _table(functions, rule, start_s, split)
            own = least_cost_windows(prior, cold_s=prices[name], hidden_s=hidden_s, start_s=start_s)
            mine = _table(functions, own, start_s, split)
            for group, members in groups.items():
                ratio = mine[members].sum(axis=0) / np.maximum(theirs[members].sum(axis=0), 1.0)
                sums.setdefault((name, group), []).append(ratio)
                sizes[group] = int(members.sum())
        say(f"seed {seed}: {sum(f.gaps_s.size for f in functions):,} gaps of {count} functions")
    return [
        FunctionRow(name, group, sizes[group], *(float(v) for v in np.mean(rows, axis=0)))
        for (name, group), rows in sums.items()
    ]


def _until(function: Function, end_s: float) -> Function:
    kept = function.begins_s + function.gaps_s < end_s
    return Function(function.name, function.kind, function.gaps_s[kept], function.begins_s[kept])


def _table(functions: list[Function], rule: WindowRule, start_s: float, score_from_s: float) -> FloatArray:
    """Visible, starts, idle a function."""
    outcomes = replay_windows(functions, rule, start_s, score_from_s)
    return np.array([(o.visible, o.starts, o.idle_s) for o in outcomes])


def _tuned(
    functions: list[Function], rule: WindowRule, prior: FloatArray, score_from_s: float, hidden_s: float, start_s: float
) -> float:
    budget = _table(functions, rule, start_s, score_from_s)[:, 2].sum() * 0.92

    def idle_s(cold_s: float) -> float:
        own = least_cost_windows(prior, cold_s=cold_s, hidden_s=hidden_s, start_s=start_s)
        return float(_table(functions, own, start_s, score_from_s)[:, 2].sum())

    within = bisect_right(COLD_CHOICES_S, budget, key=idle_s)  # idleness grows with the price
    return COLD_CHOICES_S[max(within - 1, 0)]
