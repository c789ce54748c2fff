"""Histograms whose weights decay: quantiles of the recent past, in constant memory, for all series at once.

After the recommender of the Kubernetes VerticalPodAutoscaler: exponentially growing buckets, and instead of decaying all old
weights, new ones grow by 2 ** (age / half-life) and everything is scaled back now and then.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from shardwright.contracts.forecast import FloatArray, Forecast
from shardwright.forecast._arrays import copied, measured, taken_up

_LARGEST_EXPONENT = 60.0


class DecayingHistogram:
    """Decaying histograms of ``series`` series.

    Buckets begin at 0, ``first``, and then grow by ``ratio`` up to ``last``; what lies above counts in the last bucket.
    ``half_life`` is in the unit of ``now``.
    """

    def __init__(self, series: int, *, first: float, last: float, ratio: float = 1.05, half_life: float) -> None:
        if not (0 < first < last and ratio > 1 and half_life > 0):
            raise ValueError(
                f"needs 0 < first < last, ratio > 1, half_life > 0; got {first}, {last}, {ratio}, {half_life}"
            )
        self._first = first
        self._log_ratio = np.log(ratio)
        count = int(np.ceil(np.log(last / first) / self._log_ratio)) + 2
        self._upper = np.concatenate(([first], first * ratio ** np.arange(1, count)))
        self._weights: FloatArray = np.zeros((series, count))
        self._total: FloatArray = np.zeros(series)
        self._half_life = half_life
        self._origin = 0.0

    @property
    def series(self) -> int:
        return int(self._total.size)

    def observe(self, values: FloatArray, now: float, weight: FloatArray | float = 1.0) -> None:
        """Count one value of every series; NaN is left out. ``now`` never goes back."""
        given = measured(values, self.series)
        exponent = (now - self._origin) / self._half_life
        if exponent > _LARGEST_EXPONENT:
            scale = 2.0**-exponent
            self._weights *= scale
            self._total *= scale
            self._origin, exponent = now, 0.0
        known = np.flatnonzero(~np.isnan(given))
        if not known.size:
            return
        values_known = np.maximum(given[known], 1e-300)
        buckets = np.ceil(np.log(values_known / self._first) / self._log_ratio - 1e-9)
        indices = np.clip(buckets, 0, self._upper.size - 1).astype(np.int64)
        added = np.broadcast_to(np.asarray(weight, dtype=np.float64), given.shape)[known] * 2.0**exponent
        self._weights[known, indices] += added
        self._total[known] += added

    def quantile(self, share: float | FloatArray) -> FloatArray:
        """The upper edge of the bucket in which that quantile lies, per series; NaN without data."""
        asked = np.broadcast_to(np.asarray(share, dtype=np.float64), (self.series,))
        cumulated = np.cumsum(self._weights, axis=1)
        index = (cumulated < (asked * self._total * (1 - 1e-12))[:, None]).sum(axis=1)
        result: FloatArray = self._upper[np.minimum(index, self._upper.size - 1)]
        return np.where(self._total > 0, result, np.nan)

    def total(self, now: float) -> FloatArray:
        """How many recent values are counted, per series: the sum of their decayed weights."""
        faded: FloatArray = self._total * 2.0 ** (-(now - self._origin) / self._half_life)
        return faded

    def snapshot(self) -> dict[str, FloatArray]:
        return copied(weights=self._weights, total=self._total, origin=self._origin)

    def restore(self, snapshot: Mapping[str, FloatArray]) -> None:
        fields = taken_up(snapshot, weights=self._weights, total=self._total, origin=np.array(self._origin))
        self._weights, self._total, self._origin = fields["weights"], fields["total"], float(fields["origin"])


class HistogramForecaster:
    """Forecasts that the near future is distributed as the recent past: quantiles of a decaying histogram."""

    def __init__(
        self,
        series: int,
        *,
        first: float = 1e-3,
        last: float = 1e6,
        ratio: float = 1.05,
        half_life_ticks: float = 288.0,
        confidence: float = 0.9,
    ) -> None:
        self._histogram = DecayingHistogram(series, first=first, last=last, ratio=ratio, half_life=half_life_ticks)
        self._ticks = 0.0
        self._confidence = confidence
        self._ratio = ratio

    @property
    def series(self) -> int:
        return self._histogram.series

    def update(self, values: FloatArray) -> None:
        self._ticks += 1
        self._histogram.observe(values, self._ticks)

    def predict(self, steps: int) -> Forecast:
        margin = (1 - self._confidence) / 2
        edges = [self._histogram.quantile(share) for share in (margin, 0.5, 1 - margin)]
        edges[0] = edges[0] / self._ratio  # the lower edge of its bucket
        low, middle, high = (np.repeat(edge[:, None], steps, axis=1) for edge in edges)
        return Forecast(low, middle, high, self._confidence)

    def snapshot(self) -> dict[str, FloatArray]:
        return {**self._histogram.snapshot(), **copied(ticks=self._ticks)}

    def restore(self, snapshot: Mapping[str, FloatArray]) -> None:
        ticks = taken_up(snapshot, ticks=np.array(self._ticks))["ticks"]
        self._histogram.restore(snapshot)
        self._ticks = float(ticks)
