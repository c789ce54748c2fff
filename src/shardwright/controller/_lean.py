"""Guarantees leaner than a rule of thumb, that fall short no more often than it does.

The rule (a quantile of the decayed past and a margin, as of the Kubernetes VerticalPodAutoscaler) is followed beside. What it
comes to is what was asked for: nobody has to say how rarely is rarely enough. Two kinds of guarantees compete with it, and of
those that may, the one that has given least so far goes on. Parts of the rule's own may while they fell short no more often
than all of it: where demand is flat but for spikes, the margin serves nobody, since spikes exceed it anyway. Targets of
``Needs`` may that were asked for no more shortfalls than the rule shows, and came to no more than a few above it. Vectorised
over all series.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from shardwright.contracts.forecast import FloatArray, IntArray
from shardwright.controller._needs import Needs
from shardwright.forecast import DecayingHistogram

_PARTS = np.array([1.0, 0.975, 0.95, 0.925, 0.9, 0.875, 0.85, 0.8, 0.75, 0.7])
_SHARES = np.array([0.3, 0.15, 0.08, 0.04, 0.02, 0.01, 0.005, 0.002, 0.0005])
_HALF_LIVES = (288.0, 1000.0)  # of the errors that targets are learnt from: rare shortfalls need a longer memory


class LeanParams(Struct, frozen=True):
    """The rule: ``quantile`` of a past whose half-life is ``half_life_ticks``, times ``margin``; alone for ``learn`` ticks.

    ``few``: so many shortfalls more than the rule a target may have come to, which was asked for no more than the rule's.
    """

    quantile: float = 0.9
    margin: float = 1.15
    half_life_ticks: float = 288.0
    begin: int = 100
    learn: int = 288
    few: int = 3

    def __post_init__(self) -> None:
        if not (0 < self.quantile < 1 and self.margin > 0 and self.half_life_ticks > 0 and self.few >= 0):
            raise ValueError(f"needs 0 < quantile < 1, a positive margin and half-life, few not negative; got {self}")


class LeanNeeds:
    """Follows ``series`` series of measured demand. ``periods`` are their seasons in ticks (1: none)."""

    def __init__(self, series: int, periods: IntArray | int = 1, params: LeanParams | None = None) -> None:
        self._params = params or LeanParams()
        each = np.broadcast_to(np.asarray(periods, dtype=np.int64), (series,))
        shares = np.repeat(_SHARES, series)
        self._needs = [
            Needs(shares.size, np.tile(each, _SHARES.size), shares, half_life_ticks=half_life)
            for half_life in _HALF_LIVES
        ]
        self._past = DecayingHistogram(series, first=0.01, last=1e4, half_life=self._params.half_life_ticks)
        # NaN: not asked for anything, but measured by the rule itself
        self._asked = np.concatenate((np.full(_PARTS.size, np.nan), np.tile(_SHARES, len(_HALF_LIVES))))
        experts = self._asked.size
        self._now = np.full((experts, series), np.nan)
        self._short, self._given = np.zeros((experts, series)), np.zeros((experts, series))
        self._ticks = 0
        self._seen = np.zeros(series)

    def update(self, values: FloatArray) -> None:
        """What each series took in one tick; NaN where nobody measured."""
        values = np.asarray(values, dtype=np.float64)
        values = np.where(np.isfinite(values) & (values >= 0), values, np.nan)
        judged = ~np.isnan(values) & ~np.isnan(self._now[0])
        if self._ticks >= self._params.begin:
            self._short[:, judged] += values[judged] > self._now[:, judged] + 1e-9
            self._given[:, judged] += self._now[:, judged]
            self._seen += judged
        self._past.observe(values, float(self._ticks))
        self._ticks += 1
        rule = self._past.quantile(self._params.quantile) * self._params.margin
        rows = [_PARTS[:, None] * rule]
        for needs in self._needs:
            needs.update(np.tile(values, _SHARES.size))
            target = needs.target().reshape(_SHARES.size, -1)
            rows.append(np.where(np.isnan(target), rule, target))
        self._now = np.concatenate(rows)

    def rule(self) -> FloatArray:
        """What the rule alone would guarantee; NaN where nothing was ever measured."""
        guarantees: FloatArray = self._now[0].copy()
        return guarantees

    def target(self) -> FloatArray:
        """The guarantee that each series is about to need; NaN where nothing was ever measured."""
        theirs = self._short[0]
        part = np.isnan(self._asked)[:, None]
        usual = theirs / np.maximum(self._seen, 1.0)
        sparer = (np.nan_to_num(self._asked)[:, None] <= usual) & (self._short <= theirs + self._params.few)
        may = np.where(part, self._short <= theirs, sparer) & (self._seen >= self._params.learn)
        may[0] = True
        best = np.argmin(np.where(may, self._given, np.inf), axis=0)
        result: FloatArray = self._now[best, np.arange(best.size)]
        return result
