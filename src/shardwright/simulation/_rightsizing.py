"""Right-sizing over recorded utilisation: slack and shortfall of guarantees, alone and with lending, beside the VPA's rule."""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from shardwright.contracts.forecast import FloatArray
from shardwright.controller import LeanNeeds, Needs
from shardwright.forecast import DecayingHistogram, find_periods


class Fit(Struct, frozen=True):
    """Slack: 1 - what was used of the guarantees. Short: share of intervals in which demand got less than it asked for."""

    slack: float
    short: float


def vpa_guarantees(demand: FloatArray, *, half_life_ticks: float = 288.0) -> FloatArray:
    """The rule of the Kubernetes VerticalPodAutoscaler: the 90th percentile of a decaying histogram, and 15 %."""
    histogram = DecayingHistogram(1, first=0.01, last=1e4, half_life=half_life_ticks)
    given = np.full(demand.size, np.nan)
    for tick, value in enumerate(demand):
        given[tick] = histogram.quantile(0.9)[0] * 1.15
        histogram.observe(np.array([value]), float(tick))
    return given


def lean_guarantees(demand: FloatArray, period: int) -> FloatArray:
    """The node's own targets beside that rule.  ``period`` is the season found in the part that is not scored."""
    needs = LeanNeeds(1, period)
    given = np.full(demand.size, np.nan)
    for tick, value in enumerate(demand):
        given[tick] = needs.target()[0]
        needs.update(np.array([value]))
    return given


def fit(demand: FloatArray, given: FloatArray) -> Fit:
    """Of one unit: intervals short, and slack."""
    return Fit(1 - float(np.minimum(demand, given).sum() / given.sum()), float((demand > given + 1e-9).mean()))


def period_of(demand: FloatArray, ticks: int) -> int:
    """The season in the first ``ticks``."""
    return int(find_periods(demand[None, :ticks], longest=600)[0])


def pooled_guarantees(demand: FloatArray, shortfall: float, learn: int) -> FloatArray:
    """Guarantees of units that lend to each other, shape of ``demand`` (units, ticks): each its own need, less strictly."""
    units, ticks = demand.shape
    periods = np.array([period_of(row, learn) for row in demand])
    needs = Needs(units, periods, np.full(units, shortfall))
    given = np.full((units, ticks), np.nan)
    for tick in range(ticks):
        given[:, tick] = needs.target()
        needs.update(demand[:, tick])
    return given


def pooled_fit(demand: FloatArray, given: FloatArray, capacity: float) -> Fit:
    """With lending: what is idle of ``capacity``, beyond guarantees too, others may use, fairly."""
    short, used = 0, 0.0
    for want, have in zip(demand.T, given.T, strict=True):
        have = _fair(have, capacity)  # as limits are decided: of what does not fit the largest get less
        own = np.minimum(want, have)
        got = _fair(want - own, max(capacity - float(own.sum()), 0.0))
        short += int((want - own - got > 1e-9).sum())
        used += float(own.sum())
    return Fit(1 - used / float(given.sum()), short / demand.size)


def _fair(lack: FloatArray, idle: float) -> FloatArray:
    """Max-min over a few units."""
    if lack.sum() <= idle:
        return lack
    order = np.argsort(lack)
    got = np.zeros_like(lack)
    left = idle
    for place, unit in enumerate(order):
        got[unit] = min(lack[unit], left / (lack.size - place))
        left -= got[unit]
    return got
