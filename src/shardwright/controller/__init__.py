"""What a node should have ready, and give to whom. Pure decisions: functions of (state, now).

What works on arrays of all components or shards at once (``SpareParams``, ``choose_windows``, ...) needs numpy, and is
imported when it is first used: a node that only keeps minima does without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardwright.controller._counted import CountedNeeds, PoolCost
from shardwright.controller._moves import PinParams, PinRounds, PinRow, PinStep
from shardwright.controller._pool import (
    ComponentPool,
    Evict,
    KeepMinimum,
    PoolAction,
    PooledShard,
    PoolPolicy,
    PoolState,
    Refill,
    backoff_s,
)
from shardwright.controller._rounds import GIB, ComponentRow, LimitRounds, LimitStep, ScaleRounds, ShardRow
from shardwright.controller._scale import Load, ScaleDecision, ScaleParams, decide_instances, staffing

if TYPE_CHECKING:
    from shardwright.controller._adjust import Container, NodePolicies, adjust_resources
    from shardwright.controller._budget import KeepAlive, Setting
    from shardwright.controller._fairness import dominant_shares, fair_levels, max_min
    from shardwright.controller._lean import LeanNeeds, LeanParams
    from shardwright.controller._limits import (
        CPU,
        MEMORY,
        REASONS,
        LimitDecision,
        LimitParams,
        LimitState,
        actuations,
        decide_limits,
        lend,
        may_raise,
        new_state,
    )
    from shardwright.controller._needs import NeedParams, Needs
    from shardwright.controller._rates import RateParams, Rates
    from shardwright.controller._spares import (
        MOST_SPARES,
        SpareParams,
        bucket,
        drop_at,
        needs,
        steady,
        worth_keeping,
    )
    from shardwright.controller._windows import Windows, choose_windows

__all__ = [
    "CPU",
    "GIB",
    "MEMORY",
    "MOST_SPARES",
    "REASONS",
    "ComponentPool",
    "ComponentRow",
    "Container",
    "CountedNeeds",
    "Evict",
    "KeepAlive",
    "KeepMinimum",
    "LeanNeeds",
    "LeanParams",
    "LimitDecision",
    "LimitParams",
    "LimitRounds",
    "LimitState",
    "LimitStep",
    "Load",
    "NeedParams",
    "Needs",
    "NodePolicies",
    "PinParams",
    "PinRounds",
    "PinRow",
    "PinStep",
    "PoolAction",
    "PoolCost",
    "PoolPolicy",
    "PoolState",
    "PooledShard",
    "RateParams",
    "Rates",
    "Refill",
    "ScaleDecision",
    "ScaleParams",
    "ScaleRounds",
    "Setting",
    "ShardRow",
    "SpareParams",
    "Windows",
    "actuations",
    "adjust_resources",
    "backoff_s",
    "bucket",
    "choose_windows",
    "decide_instances",
    "decide_limits",
    "dominant_shares",
    "drop_at",
    "fair_levels",
    "lend",
    "max_min",
    "may_raise",
    "needs",
    "new_state",
    "staffing",
    "steady",
    "worth_keeping",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from shardwright.controller import (
            _adjust,
            _budget,
            _fairness,
            _lean,
            _limits,
            _needs,
            _rates,
            _spares,
            _windows,
        )

        for module in (_adjust, _budget, _fairness, _lean, _limits, _needs, _rates, _spares, _windows):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
