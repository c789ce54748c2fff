"""Rounds of decisions about a running node: what ``decide_limits`` and ``decide_instances`` need to know of rounds before.

Pure: rows of numbers and a time in, steps out. What is recorded of a running node is these rows, so that a simulation
takes the same decisions from them. numpy is imported with the first round in which a limit may have to change.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from shardwright.controller._scale import Load, ScaleDecision, ScaleParams, decide_instances
from shardwright.model.ids import ComponentName, ShardId
from shardwright.model.manifest import Component

if TYPE_CHECKING:
    from shardwright.controller._limits import LimitParams

GIB = 2.0**30
NEVER = float("-inf")
LEAST_CPU, LEAST_MEMORY_GIB = 0.02, 4 / 1024  # smaller raises are not worth a step
_CPU_STEP, _PAGE = 1000, 4096


class ShardRow(Struct, frozen=True):
    """One shard in one round. Pairs are CPU (cores) and memory (GiB); a resource that is not to be moved is 0 in ``floor``,
    ``ceiling`` and ``guarantee``. ``forecast`` is NaN where nobody knows, ``measured_s`` minus infinity where nobody looked.
    """

    shard: ShardId
    component: ComponentName
    priority: float
    usage: tuple[float, float]
    lacked: tuple[float, float]
    measured_s: float
    forecast: tuple[float, float]
    floor: tuple[float, float]
    ceiling: tuple[float, float]
    guarantee: tuple[float, float]
    oom_s: float = NEVER


class LimitStep(Struct, frozen=True):
    """A new guarantee of one shard, in cores and bytes; None leaves it. Steps that sink come before any that rises."""

    shard: ShardId
    component: ComponentName
    cpu: float | None
    memory_bytes: int | None
    rises: bool
    reason: str
    inputs: tuple[tuple[str, str | int | float], ...]


class _Past(Struct):
    high_since_s: tuple[float, float]
    raised_s: tuple[float, float] = (NEVER, NEVER)
    short_since_s: float = math.inf


class LimitRounds:
    """Limits of one node's shards, round by round. Tell it by ``done`` which steps were carried out."""

    def __init__(self, params: LimitParams | None = None) -> None:
        self._params = params
        self._past: dict[ShardId, _Past] = {}

    def __repr__(self) -> str:
        return f"<LimitRounds of {len(self._past)} shards>"

    @staticmethod
    def calm(rows: Sequence[ShardRow]) -> bool:
        """Whether nothing can be to do: nobody has more than its floor, and nobody needs more than it has."""
        for row in rows:
            for r in (0, 1):
                if row.guarantee[r] != row.floor[r] and row.ceiling[r] > 0:
                    return False
                need = max(row.usage[r] + row.lacked[r], row.forecast[r] if row.forecast[r] == row.forecast[r] else 0.0)
                if need > row.guarantee[r] and row.ceiling[r] > row.guarantee[r]:
                    return False
            if row.oom_s > NEVER:
                return False
        return True

    def decide(self, rows: Sequence[ShardRow], capacity: tuple[float, float], now: float) -> tuple[LimitStep, ...]:
        """What to change, in this order. ``capacity``: cores and GiB that these shards may be guaranteed together."""
        import numpy as np  # whoever keeps calm does without

        from shardwright.controller._limits import REASONS, LimitParams, LimitState, actuations, decide_limits

        params = self._params or LimitParams()
        self._past = {row.shard: self._past.get(row.shard) or _Past((now, now)) for row in rows}
        if not rows:
            return ()
        past = list(self._past.values())

        def table(pairs: Sequence[tuple[float, float]]) -> Any:
            return np.array(pairs, dtype=np.float64).reshape(len(rows), 2)

        state = LimitState(
            node=np.zeros(len(rows), dtype=np.int64),
            priority=np.array([row.priority for row in rows]),
            weight=np.ones(len(rows)),
            usage=table([row.usage for row in rows]),
            lacked=table([row.lacked for row in rows]),
            measured_s=np.array([row.measured_s for row in rows]),
            forecast=table([row.forecast for row in rows]),
            floor=table([row.floor for row in rows]),
            ceiling=table([row.ceiling for row in rows]),
            guarantee=table([row.guarantee for row in rows]),
            high_since_s=table([each.high_since_s for each in past]),
            raised_s=table([each.raised_s for each in past]),
            short_since_s=np.array([each.short_since_s for each in past]),
            oom_s=np.array([row.oom_s for row in rows]),
        )
        decision = decide_limits(state, np.array([capacity]), now, params)
        high, short = decision.state.high_since_s, decision.state.short_since_s
        for place, each in enumerate(past):
            each.high_since_s = (float(high[place, 0]), float(high[place, 1]))
            each.short_since_s = float(short[place])
        steps: dict[tuple[int, bool], dict[int, float]] = {}
        for place, resource, amount in actuations(state.guarantee, decision):
            rises = amount > rows[place].guarantee[resource]
            if not _matters(rows[place], resource, amount):
                continue
            steps.setdefault((place, rises), {})[resource] = amount
        return tuple(
            _step(
                rows[place], rises, amounts, REASONS[int(decision.reason[place])], decision.wish[place], capacity, now
            )
            for (place, rises), amounts in steps.items()
        )

    def done(self, step: LimitStep, now: float) -> None:
        """That step was carried out."""
        past = self._past.get(step.shard)
        if past is not None and step.rises:
            past.raised_s = (
                now if step.cpu is not None else past.raised_s[0],
                now if step.memory_bytes is not None else past.raised_s[1],
            )


def _matters(row: ShardRow, resource: int, amount: float) -> bool:
    least = (LEAST_CPU, LEAST_MEMORY_GIB)[resource]
    moved, floor = abs(amount - row.guarantee[resource]), row.floor[resource]
    return moved >= least or (amount <= floor * (1 + 1e-9) and moved > 1e-3 * floor)


def _step(
    row: ShardRow,
    rises: bool,
    amounts: dict[int, float],
    why: str,
    wish: Any,
    capacity: tuple[float, float],
    now: float,
) -> LimitStep:
    # whole thousandths of a core and whole pages, as they read back; rounded down, but never below the floor
    cpu = memory = None
    if 0 in amounts:
        cpu = max(math.floor(amounts[0] * _CPU_STEP + 1e-6) / _CPU_STEP, row.floor[0])
    if 1 in amounts:
        memory = max(int(amounts[1] * GIB) // _PAGE * _PAGE, int(row.floor[1] * GIB))
    inputs: list[tuple[str, str | int | float]] = []
    for resource, name in ((0, "cpu"), (1, "memory_gib")):
        if resource not in amounts:
            continue
        inputs += [
            (f"guarantee_{name}", f"{row.guarantee[resource]:.4g} -> {amounts[resource]:.4g}"),
            (f"wish_{name}", round(float(wish[resource]), 4)),
            (f"usage_{name}", round(row.usage[resource], 4)),
            (f"kept_from_{name}", round(row.lacked[resource], 4)),
            (f"floor_{name}", round(row.floor[resource], 4)),
            (f"ceiling_{name}", round(row.ceiling[resource], 4)),
            (f"capacity_{name}", round(capacity[resource], 4)),
        ]
        if math.isfinite(row.forecast[resource]):
            inputs.append((f"forecast_{name}", round(row.forecast[resource], 4)))
    inputs.append(("priority", row.priority))
    inputs.append(("age_of_metrics_s", round(now - row.measured_s, 3)))
    if why == "as it is":
        why = "needs more" if rises else "needs less"
    return LimitStep(row.shard, row.component, cpu, memory, rises, f"it {_REASONS[why]}", tuple(inputs))


_REASONS = {
    "needs more": "needs more",
    "needs less": "needs less",
    "killed for memory": "was killed for memory",
    "metrics are stale": "is left as it is: metrics are stale",
    "there is not enough": "needs more than there is; this is its share",
}


class ComponentRow(Struct, frozen=True):
    """One component in one round. ``concurrency``: calls that run and wait, NaN where nobody knows; ``fits``: how many
    instances there is room for in all.
    """

    component: ComponentName
    instances: int
    concurrency: float
    arrivals_s: float = 0.0
    service_s: float = 0.0
    queued: int = 0
    fits: int | None = None


class _Window(Struct):
    samples: deque[tuple[float, float]] = field(default_factory=deque)
    used_s: float = NEVER
    panic_since_s: float | None = None


class ScaleRounds:
    """How many instances each component should have, round by round."""

    def __init__(self, params: ScaleParams | None = None) -> None:
        self.params = params or ScaleParams()
        self._windows: dict[ComponentName, _Window] = {}

    def __repr__(self) -> str:
        return f"<ScaleRounds of {len(self._windows)} components>"

    def decide(self, component: Component, row: ComponentRow, now: float) -> tuple[ScaleDecision, Load]:
        """Its instances, and the load that they were decided for."""
        window = self._windows.setdefault(row.component, _Window(used_s=now))
        sound = math.isfinite(row.concurrency) and row.concurrency >= 0
        if sound:
            window.samples.append((now, row.concurrency))
        if (sound and row.concurrency > 0) or row.arrivals_s > 0 or row.queued:
            window.used_s = now
        while window.samples and window.samples[0][0] <= now - self.params.stable_s:
            window.samples.popleft()
        recent = [value for at, value in window.samples if at > now - self.params.panic_s]
        load = Load(
            instances=row.instances,
            stable=_mean([value for _, value in window.samples]),
            panic=_mean(recent),
            arrivals_s=row.arrivals_s,
            service_s=row.service_s,
            queued=row.queued,
            idle_since_s=window.used_s,
            panic_since_s=window.panic_since_s,
        )
        decision = decide_instances(component, load, now, self.params, fits=row.fits)
        window.panic_since_s = decision.panic_since_s
        return decision, load


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
