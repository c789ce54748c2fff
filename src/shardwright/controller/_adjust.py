"""``adjust_resources``: the documented entry to decisions about limits, for one container at a time.

The contract is the specified one (usage, a usage model and policies in; adjusted limits out). How it differs from a literal
reading of the specified rule, and why, is in docs/decisions/0016-limits.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct, field
from msgspec.structs import replace

from shardwright.contracts.forecast import FloatArray
from shardwright.controller._limits import CPU, MEMORY, LimitParams, LimitState, decide_limits
from shardwright.model.ids import ShardId
from shardwright.model.limits import Limits, Resources
from shardwright.model.manifest import UsageModel

_GIB = 2.0**30


class Container(Struct, frozen=True):
    """A running sandbox as a decision sees it: its limits, what it takes, and what it was kept from taking.

    ``floor`` is what the manifest guarantees, ``limits`` what it has now. ``history_cpu`` are past uses of CPU in cores, oldest
    first, in equal steps. ``measured_s`` is when usage was measured; None: never.
    """

    shard: ShardId
    floor: Resources
    limits: Limits
    cpu: float = 0.0
    throttled_cpu: float = 0.0
    queued_cpu: float = 0.0
    memory_bytes: int = 0
    history_cpu: tuple[float, ...] = ()
    measured_s: float | None = None
    calm_since_s: float = 0.0
    raised_s: float = float("-inf")
    oom_s: float = float("-inf")


class NodePolicies(Struct, frozen=True):
    """What a node may promise in all, the other containers on it, and how decisions are taken."""

    capacity: Resources
    others: Sequence[tuple[Container, UsageModel]] = ()
    params: LimitParams = field(default_factory=LimitParams)


def adjust_resources(container: Container, usage_model: UsageModel, policies: NodePolicies, now: float) -> Container:
    """The container with the limits that it should have now; the same object if nothing changes.

    Decided together with ``policies.others``, so that the result does not depend on who is asked about first and all results
    together fit the capacity: ask about each with the others as they are, and apply what sinks before what rises.
    """
    everybody = [(container, usage_model), *policies.others]
    everybody.sort(key=lambda pair: pair[0].shard)
    place = next(number for number, (other, _) in enumerate(everybody) if other.shard == container.shard)
    capacity = np.array([[_or(policies.capacity.cpu, 1e9), _or(policies.capacity.memory_bytes, 1e18) / _GIB]])
    state = _state(everybody)
    decision = decide_limits(state, capacity, now, policies.params)
    before, after = state.guarantee[place], decision.state.guarantee[place]
    if np.array_equal(before, after):
        return container
    guarantee = replace(container.limits.guarantee, cpu=float(after[CPU]), memory_bytes=int(after[MEMORY] * _GIB))
    risen = bool((after > before).any())
    return replace(
        container,
        limits=Limits(guarantee, container.limits.ceiling),
        raised_s=now if risen else container.raised_s,
        calm_since_s=now,
    )


def _or(amount: float | None, otherwise: float) -> float:
    return otherwise if amount is None else float(amount)


def _state(everybody: Sequence[tuple[Container, UsageModel]]) -> LimitState:
    def table(values: Sequence[tuple[float, float]]) -> FloatArray:
        return np.array(values, dtype=np.float64).reshape(len(everybody), 2)

    containers = [container for container, _ in everybody]
    return LimitState(
        node=np.zeros(len(containers), dtype=np.int64),
        priority=np.array([float(model.priority) for _, model in everybody]),
        weight=np.ones(len(containers)),
        usage=table([(c.cpu, c.memory_bytes / _GIB) for c in containers]),
        lacked=table([(c.throttled_cpu + c.queued_cpu, 0.0) for c in containers]),
        measured_s=np.array([-np.inf if c.measured_s is None else c.measured_s for c in containers]),
        forecast=table([(_peak(c.history_cpu), np.nan) for c in containers]),
        floor=table([(_or(c.floor.cpu, 0.0), _or(c.floor.memory_bytes, 0.0) / _GIB) for c in containers]),
        ceiling=table(
            [(_or(c.limits.ceiling.cpu, 1e9), _or(c.limits.ceiling.memory_bytes, 1e18) / _GIB) for c in containers]
        ),
        guarantee=table(
            [(_or(c.limits.guarantee.cpu, 0.0), _or(c.limits.guarantee.memory_bytes, 0.0) / _GIB) for c in containers]
        ),
        high_since_s=table([(c.calm_since_s, c.calm_since_s) for c in containers]),
        raised_s=table([(c.raised_s, c.raised_s) for c in containers]),
        short_since_s=np.full(len(containers), np.inf),
        oom_s=np.array([c.oom_s for c in containers]),
    )


def _peak(history: Sequence[float]) -> float:
    """What is to be expected from the past: its 90th percentile; NaN without a past."""
    sound = [value for value in history if np.isfinite(value) and value >= 0]
    return float(np.quantile(sound, 0.9)) if sound else float("nan")
