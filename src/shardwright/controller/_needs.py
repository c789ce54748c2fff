"""What each shard is about to need of one resource: the least guarantee that falls short as rarely as was asked.

Several rules forecast each series: quantiles of the recent past, smoothing, smoothing and repetition with the season found in
the data. Each is scaled by a quantile of its own past errors (value over forecast), and that quantile is moved after each
shortfall and each sufficiency so that the share of shortfalls comes out as asked (adaptive conformal inference, Gibbs and
Candès, 2021). Per series the rule is believed that has given least for what was used,
of those that fell short as rarely as asked. Vectorised over all series.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from shardwright.contracts.forecast import FloatArray, Forecaster, IntArray
from shardwright.forecast import DecayingHistogram, HoltWinters, SeasonalNaive

_LEAST = 1e-3


class NeedParams(Struct, frozen=True):
    """``shortfall`` is the share of ticks in which a guarantee may be too little; amounts are about 1e-3 to 1e4."""

    shortfall: float = 0.02
    half_life_ticks: float = 288.0
    step: float = 0.02
    memory_ticks: float = 1000.0

    def __post_init__(self) -> None:
        if not (0 < self.shortfall < 0.5 and self.half_life_ticks > 0 and 0 < self.step < 1):
            raise ValueError(f"needs 0 < shortfall < 0.5, half_life_ticks > 0, 0 < step < 1; got {self}")


class Needs:
    """Follows ``series`` series of measured demand. ``periods`` are their seasons in ticks (1: none)."""

    def __init__(
        self,
        series: int,
        periods: IntArray | int = 1,
        params: NeedParams | FloatArray | None = None,
        *,
        half_life_ticks: float | None = None,
    ) -> None:
        self._params = params if isinstance(params, NeedParams) else NeedParams()
        shortfall = self._params.shortfall if params is None or isinstance(params, NeedParams) else params
        self._shortfall = np.broadcast_to(np.asarray(shortfall, dtype=np.float64), (series,)).copy()
        self._rules: tuple[Forecaster | None, ...] = (
            None,  # the recent past as it is
            HoltWinters(series, 1, alpha=0.3),
            HoltWinters(series, periods, alpha=0.2),
            SeasonalNaive(series, periods),
        )
        count = len(self._rules)
        self._errors = DecayingHistogram(
            count * series,
            first=_LEAST,
            last=1e4,
            ratio=1.02,
            half_life=half_life_ticks or self._params.half_life_ticks,
        )
        self._share = np.repeat(1 - self._shortfall[None, :], count, axis=0)
        self._given, self._used, self._short = (np.zeros((count, series)) for _ in range(3))
        self._judged = np.zeros(series)
        self._ticks = 0.0
        self._keep = 0.5 ** (1 / self._params.memory_ticks)
        self._bases = np.ones((count, series))
        self._targets = np.full((count, series), np.nan)

    def update(self, values: FloatArray) -> None:
        """What each series took in one tick; NaN where nobody measured."""
        values = np.asarray(values, dtype=np.float64)
        values = np.where(np.isfinite(values) & (values >= 0), values, np.nan)
        known = ~np.isnan(values)
        judged = known & ~np.isnan(self._targets).any(axis=0)
        short = values[None, :] > self._targets
        moved = self._share + self._params.step * (short - self._shortfall)
        self._share = np.where(judged, np.clip(moved, 0.3, 1.0), self._share)
        for sums, new in (
            (self._given, self._targets), (self._used, np.minimum(self._targets, values)), (self._short, short * 1.0)
        ):  # fmt: skip
            sums[:, judged] = sums[:, judged] * self._keep + new[:, judged]
        self._judged[judged] = self._judged[judged] * self._keep + 1
        self._ticks += 1
        self._errors.observe((values[None, :] / self._bases).ravel(), self._ticks)
        for rule in self._rules:
            if rule is not None:
                rule.update(values)
        bases = [np.ones_like(values) if r is None else r.predict(1).middle[:, 0] for r in self._rules]
        self._bases = np.maximum(np.where(np.isnan(bases), 1.0, bases), _LEAST)
        scale = self._errors.quantile(self._share.ravel()).reshape(self._bases.shape)
        self._targets = self._bases * scale

    def target(self) -> FloatArray:
        """The guarantee that each series is about to need; NaN where nothing was ever measured."""
        best = self._best()
        result: FloatArray = self._targets[best, np.arange(best.size)]
        return result

    def _best(self) -> IntArray:
        waste = (self._given + 1e-9) / (self._used + 1e-9)
        too_short = (self._short + 1) / (self._shortfall * self._judged * 1.1 + 1)
        best: IntArray = np.argmin(waste * np.maximum(too_short, 1.0), axis=0)
        return best

    def expected(self) -> FloatArray:
        """What each series is expected to take in the next tick, in the middle."""
        middles = self._errors.quantile(0.5).reshape(self._bases.shape) * self._bases
        result: FloatArray = middles[self._best(), np.arange(middles.shape[1])]
        return result
