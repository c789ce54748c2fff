"""The warm pool's evaluation: every policy over every component, scored on all but the first part of each trace.

Parameters are the same for all components. They were chosen from the first parts alone (docs/decisions/0045-rates.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from shardwright.contracts.forecast import FloatArray
from shardwright.controller import KeepAlive, RateParams, SpareParams
from shardwright.simulation._demand import DemandParams, Sessions, make_sessions
from shardwright.simulation._instances import Lane, replay
from shardwright.simulation._levels import Outcome
from shardwright.simulation._policies import closed_form, greedy_dual
from shardwright.simulation._traces import Trace
from shardwright.simulation._within import replay_within

BASELINE = "fixed 10 min"
OURS, BOUNDED, TOLD = "shardwright", "shardwright within 10 min", "told the true rate"


class PoolParams(Struct, frozen=True):
    """Prices in idle-seconds; ``least_colds`` of the baseline for a component to be scored."""

    cold_s: float = 600.0
    hidden_s: float = 18.0  # as `bench live` measures it on the arena
    start_s: float = 0.01
    least_colds: int = 20
    demand: DemandParams = field(default_factory=DemandParams)


class PoolResults(Struct, frozen=True):
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


def at_price(cold_s: float) -> str:
    """Our policy's name where it goes by a price of its own."""
    return f"{OURS}, C = {cold_s:g}"


def evaluate_pool(
    traces: Sequence[Trace],
    params: PoolParams,
    seeds: Sequence[int],
    say: Callable[[str], None] = lambda _: None,
    *,
    prices: Sequence[float] = (),
    budgets: bool = True,
) -> PoolResults:
    """Every policy over every component and seed. At ``prices`` of a cold start ours is replayed as well, for a curve.

    Without ``budgets`` the one that is bounded by them is left out: it takes longest, and no price changes what it does.
    """
    summed: dict[str, list[list[Outcome]]] = {}
    fleets = []
    for seed in seeds:
        fleets.append([make_sessions(trace, seed, params.demand) for trace in traces])
        for policy, outcomes in _closed(fleets[-1], params).items():
            summed.setdefault(policy, []).append(outcomes)
        say(f"seed {seed}: {sum(s.count for s in fleets[-1]):,} sessions of {len(traces)} components")
    summed |= _replayed(fleets, params, prices, budgets)
    means = {policy: [_mean(column) for column in zip(*rows, strict=True)] for policy, rows in summed.items()}
    scored = [n for n in range(len(traces)) if means[BASELINE][n].visible >= params.least_colds]
    return PoolResults(
        params,
        tuple(traces[n].name for n in scored),
        tuple(trace.name for n, trace in enumerate(traces) if n not in set(scored)),
        {policy: tuple(outcomes[n] for n in scored) for policy, outcomes in means.items()},
    )


def _mean(outcomes: Sequence[Outcome]) -> Outcome:
    return Outcome(*(float(np.mean([getattr(o, name) for o in outcomes])) for name in Outcome.__struct_fields__))


def _closed(fleet: Sequence[Sessions], params: PoolParams) -> dict[str, list[Outcome]]:
    """What needs no decisions of ours."""
    result: dict[str, list[Outcome]] = {}
    for sessions in fleet:
        for policy, outcome in closed_form(sessions, params.cold_s, params.hidden_s, params.start_s).items():
            result.setdefault(policy, []).append(outcome)
    idle = sum(o.idle_s / max(s.length_s - s.score_from_s, 1e-9) for o, s in zip(result[BASELINE], fleet, strict=True))
    result["greedy dual"] = greedy_dual(fleet, max(1, round(idle)), params.start_s)
    return result


def _replayed(
    fleets: Sequence[Sequence[Sessions]], params: PoolParams, prices: Sequence[float], budgets: bool
) -> dict[str, list[list[Outcome]]]:
    """Ours, all fleets together."""
    usual = SpareParams(params.cold_s, params.hidden_s, params.start_s, 200.0, rates=RateParams())
    kinds = {OURS: (usual, False), TOLD: (usual, True)}
    kinds |= {at_price(cold_s): (replace(usual, cold_s=cold_s), False) for cold_s in prices}
    flat = [sessions for fleet in fleets for sessions in fleet]
    lanes = [Lane(s, own, told, s.score_from_s) for own, told in kinds.values() for s in flat]
    outcomes = replay(lanes)
    size = len(fleets[0])
    found: dict[str, list[list[Outcome]]] = {}
    for place, policy in enumerate(kinds):
        mine = outcomes[place * len(flat) : (place + 1) * len(flat)]
        found[policy] = [mine[at : at + size] for at in range(0, len(mine), size)]
    if budgets:
        within = replace(usual, within=KeepAlive())
        # seed by seed: what is usual among components is learnt anew in each
        found[BOUNDED] = [replay_within([Lane(s, within, False, s.score_from_s) for s in fleet]) for fleet in fleets]
    return found
