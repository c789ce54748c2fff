"""The warm pool's evaluation: every policy over every component, tuned on the first part, scored on the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from shardwright.contracts.forecast import FloatArray
from shardwright.controller import KeepAlive, SpareParams
from shardwright.simulation._demand import DemandParams, Sessions, make_sessions
from shardwright.simulation._instances import Lane, replay
from shardwright.simulation._levels import Outcome
from shardwright.simulation._policies import closed_form, greedy_dual
from shardwright.simulation._traces import Trace

BASELINE = "fixed 10 min"
OURS, BOUNDED, TOLD = "shardwright", "shardwright within 10 min", "told the true rate"
_CANDIDATES = ((200.0, 0.0), (50.0, 0.0), (200.0, 30.0), (200.0, np.inf))  # memory, trust


@dataclass(frozen=True, slots=True)
class PoolParams:
    """Prices in idle-seconds; ``least_colds`` of the baseline for a component to be scored."""

    cold_s: float = 600.0
    hidden_s: float = 15.0
    start_s: float = 0.5
    least_colds: int = 20
    demand: DemandParams = field(default_factory=DemandParams)


@dataclass(frozen=True, slots=True)
class PoolResults:
    """``outcomes[policy][component]`` are means over the seeds; components below ``least_colds`` are in ``left_out``."""

    params: PoolParams
    components: tuple[str, ...]
    left_out: tuple[str, ...]
    outcomes: dict[str, tuple[Outcome, ...]]

    def costs(self, policy: str) -> FloatArray:
        """In idle-seconds, component by component."""
        p = self.params
        return np.array([outcome.cost(p.cold_s, p.hidden_s) for outcome in self.outcomes[policy]])

    def ratio(self, policy: str, of: str, to: str = BASELINE) -> FloatArray:
        """``visible``, ``starts``, ``idle_s`` or ``cost`` over another policy's, component by component."""
        if of == "cost":
            return self.costs(policy) / self.costs(to)
        mine, theirs = ([getattr(o, of) for o in self.outcomes[name]] for name in (policy, to))
        ratios: FloatArray = np.array(mine) / np.maximum(np.array(theirs), 1e-9)
        return ratios


def evaluate_pool(
    traces: Sequence[Trace], params: PoolParams, seeds: Sequence[int], say: Callable[[str], None] = lambda _: None
) -> PoolResults:
    """Every policy over every component and seed."""
    summed: dict[str, list[list[Outcome]]] = {}
    for seed in seeds:
        fleet = [make_sessions(trace, seed, params.demand) for trace in traces]
        for policy, outcomes in _once(fleet, params).items():
            summed.setdefault(policy, []).append(outcomes)
        say(f"seed {seed}: {sum(s.count for s in fleet):,} sessions of {len(fleet)} components")
    means = {policy: [_mean(column) for column in zip(*rows, strict=True)] for policy, rows in summed.items()}
    scored = [n for n in range(len(traces)) if means[BASELINE][n].visible >= params.least_colds]
    return PoolResults(
        params,
        tuple(traces[n].name for n in scored),
        tuple(trace.name for n, trace in enumerate(traces) if n not in set(scored)),
        {policy: tuple(outcomes[n] for n in scored) for policy, outcomes in means.items()},
    )


def _mean(outcomes: Sequence[Outcome]) -> Outcome:
    return Outcome(*(float(np.mean([getattr(o, name) for o in outcomes])) for name in Outcome.__slots__))


def _once(fleet: Sequence[Sessions], params: PoolParams) -> dict[str, list[Outcome]]:
    result: dict[str, list[Outcome]] = {}
    for sessions in fleet:
        for policy, outcome in closed_form(sessions, params.cold_s, params.hidden_s, params.start_s).items():
            result.setdefault(policy, []).append(outcome)
    idle = sum(o.idle_s / max(s.length_s - s.score_from_s, 1e-9) for o, s in zip(result[BASELINE], fleet, strict=True))
    result["greedy dual"] = greedy_dual(fleet, max(1, round(idle)), params.start_s)
    chosen = _tuned(fleet, params)
    usual = SpareParams(params.cold_s, params.hidden_s, params.start_s, _CANDIDATES[0][0])
    lanes = [Lane(s, p, False, s.score_from_s) for s, p in zip(fleet, chosen, strict=True)]
    lanes += [Lane(s, p, True, s.score_from_s) for s, p in zip(fleet, chosen, strict=True)]
    lanes += [Lane(s, replace(usual, within=KeepAlive()), False, s.score_from_s) for s in fleet]
    outcomes = replay(lanes)
    count = len(fleet)
    for place, policy in enumerate((OURS, TOLD, BOUNDED)):
        result[policy] = outcomes[place * count : (place + 1) * count]
    return result


def _tuned(fleet: Sequence[Sessions], params: PoolParams) -> list[SpareParams]:
    """For each component the candidate of least cost in the first part of its trace."""
    candidates = [
        SpareParams(params.cold_s, params.hidden_s, params.start_s, memory, trust=trust)
        for memory, trust in _CANDIDATES
    ]
    outcomes = replay([Lane(s, p, False, 0.0, s.score_from_s) for p in candidates for s in fleet])
    costs = np.array([o.cost(params.cold_s, params.hidden_s) for o in outcomes]).reshape(len(candidates), len(fleet))
    return [candidates[n] for n in np.argmin(costs, axis=0)]
