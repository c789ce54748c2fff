"""How many instances of a component there should be: concurrency with stable and panic windows, forecast, and waiting time.

After the autoscaler of Knative Serving (two windows) and the square-root staffing rule of Halfin and Whitt (1981). Pure.
"""

from __future__ import annotations

import math

from msgspec import Struct

from shardwright.model.manifest import Component


class ScaleParams(Struct, frozen=True):
    """A burst counts as panic when the short window asks for ``panic_at`` times what is there; panic lasts ``stable_s``."""

    stable_s: float = 60.0
    panic_s: float = 6.0
    panic_at: float = 2.0
    idle_s: float = 60.0  # without any demand for so long: to zero, where the manifest permits it
    sink: float = 0.5  # the largest share of instances that go at once


class Load(Struct, frozen=True):
    """What a component has to do. Concurrencies are means over the two windows; None: not measured.

    ``arrivals_s`` per second and ``service_s`` give the load for staffing; ``forecast`` is the concurrency expected.
    """

    instances: int
    stable: float | None
    panic: float | None
    arrivals_s: float = 0.0
    service_s: float = 0.0
    forecast: float | None = None
    queued: int = 0
    idle_since_s: float | None = None
    panic_since_s: float | None = None


class ScaleDecision(Struct, frozen=True):
    instances: int
    reason: str
    panic_since_s: float | None


def staffing(offered: float, slo_wait_s: float, service_s: float) -> float:
    """Servers for an offered load so that a request rarely waits longer: load + beta * sqrt(load).

    ``beta`` grows as the permitted wait shrinks against the service time (half of the requests wait at beta 0.5, 3 % at 2).
    """
    if offered <= 0:
        return 0.0
    beta = 1.0 if service_s <= 0 else min(2.5, max(0.5, 1.0 + 0.5 * math.log10(service_s / max(slo_wait_s, 1e-9))))
    return offered + beta * math.sqrt(offered)


def decide_instances(
    component: Component, load: Load, now: float, params: ScaleParams = ScaleParams(), *, fits: int | None = None
) -> ScaleDecision:
    """How many instances, within ``scale`` and ``usage.max_instances``; ``fits`` is how many there is room for.

    Without measurements nothing changes. What a panic raised does not sink before it is over.
    """
    lowest = min(component.scale.min, component.scale.max)
    highest = component.scale.max
    if component.usage.max_instances is not None:
        highest = min(highest, component.usage.max_instances)
    if fits is not None:
        highest = min(highest, max(fits, 0))
    if load.stable is None or not math.isfinite(load.stable):
        kept = min(max(load.instances, lowest), highest)
        return ScaleDecision(kept, "nothing was measured: as it is", load.panic_since_s)
    target = max(component.scale.target_concurrency, 1e-9)
    by_load, why = load.stable / target, f"concurrency {load.stable:.2f} over {params.stable_s:g} s, target {target:g}"
    panic = load.panic / target if load.panic is not None and math.isfinite(load.panic) else 0.0
    since = load.panic_since_s
    if panic >= params.panic_at * max(load.instances, 1):
        since = now
    elif since is not None and now - since > params.stable_s:
        since = None
    if since is not None and max(panic, load.instances) > by_load:
        by_load, why = (
            max(panic, float(load.instances)),
            f"panic: concurrency {load.panic or 0:.2f} over {params.panic_s:g} s",
        )
    if load.forecast is not None and math.isfinite(load.forecast) and load.forecast / target > by_load:
        by_load, why = load.forecast / target, f"concurrency {load.forecast:.2f} is forecast, target {target:g}"
    if component.usage.latency_slo_s is not None and load.arrivals_s > 0:
        needed = staffing(load.arrivals_s * load.service_s, component.usage.latency_slo_s, load.service_s) / target
        if needed > by_load:
            by_load, why = needed, f"waiting time within {component.usage.latency_slo_s * 1000:g} ms"
    wanted = math.ceil(by_load - 1e-9)
    if load.queued and wanted < 1:
        wanted, why = 1, f"{load.queued} requests wait"
    if wanted < 1:
        idle = load.idle_since_s is not None and now - load.idle_since_s >= params.idle_s
        wanted, why = (0, f"idle for {params.idle_s:g} s") if idle else (min(load.instances, 1), why)
    if wanted < load.instances:
        wanted = max(wanted, load.instances - max(1, math.floor(load.instances * params.sink)))
    return ScaleDecision(min(max(wanted, lowest), highest), why, since)
