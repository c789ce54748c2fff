"""Selection per series by rolling backtest: every candidate forecasts every tick, and the best so far is believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from shardwright.contracts.forecast import FloatArray, Forecast, Forecaster, IntArray
from shardwright.forecast._arrays import copied, measured, taken_up
from shardwright.forecast._histogram import HistogramForecaster
from shardwright.forecast._seasonal import HoltWinters, SeasonalNaive


class Selected:
    """Forecasts each series by the candidate whose forecasts of one step were least wrong there.

    Wrong is the pinball loss of ``high`` and of ``middle`` together, faded with ``memory_ticks``: a candidate must be
    right in the mean and at the edge that decisions use. Earlier candidates win ties. ``best`` says whom it believes.
    """

    def __init__(self, candidates: Sequence[Forecaster], *, memory_ticks: float = 288.0) -> None:
        if not candidates or len({candidate.series for candidate in candidates}) != 1:
            raise ValueError("needs at least one candidate, all of the same number of series")
        self._candidates = tuple(candidates)
        self._loss: FloatArray = np.zeros((len(candidates), candidates[0].series))
        self._weight: FloatArray = np.zeros(candidates[0].series)
        self._keep = 0.5 ** (1 / memory_ticks)

    @property
    def series(self) -> int:
        return self._candidates[0].series

    def update(self, values: FloatArray) -> None:
        given = measured(values, self.series)
        known = ~np.isnan(given)
        self._weight = np.where(known, self._weight * self._keep + 1, self._weight)
        for loss, candidate in zip(self._loss, self._candidates, strict=True):
            forecast = candidate.predict(1)
            edge = 0.5 + forecast.confidence / 2
            wrong = _pinball(given, forecast.middle[:, 0], 0.5) + _pinball(given, forecast.high[:, 0], edge)
            # who says "no data" although there was some is as wrong as who forecast nothing
            silent = known & np.isnan(forecast.middle[:, 0])
            wrong = np.where(silent, _pinball(given, np.zeros_like(given), 0.5) * (1 + 2 * edge), wrong)
            loss[known] = loss[known] * self._keep + wrong[known]
            candidate.update(given)

    @property
    def best(self) -> IntArray:
        """The index of the candidate that is believed, per series."""
        best: IntArray = np.argmin(self._loss, axis=0)
        return best

    @property
    def loss(self) -> FloatArray:
        """The mean loss of every candidate, shape (candidates, series); NaN where nothing was measured yet."""
        return np.where(self._weight > 0, self._loss / np.maximum(self._weight, 1e-300), np.nan)

    def predict(self, steps: int) -> Forecast:
        forecasts = [candidate.predict(steps) for candidate in self._candidates]
        best, rows = self.best, np.arange(self.series)
        low, middle, high = (
            np.stack([getattr(forecast, name) for forecast in forecasts])[best, rows]
            for name in ("low", "middle", "high")
        )
        return Forecast(low, middle, high, forecasts[0].confidence)

    def snapshot(self) -> dict[str, FloatArray]:
        mine = copied(loss=self._loss, weight=self._weight)
        for number, candidate in enumerate(self._candidates):
            mine.update({f"{number}.{name}": array for name, array in candidate.snapshot().items()})
        return mine

    def restore(self, snapshot: Mapping[str, FloatArray]) -> None:
        fields = taken_up(snapshot, loss=self._loss, weight=self._weight)
        for number, candidate in enumerate(self._candidates):
            prefix = f"{number}."
            candidate.restore({n.removeprefix(prefix): a for n, a in snapshot.items() if n.startswith(prefix)})
        self._loss, self._weight = fields["loss"], fields["weight"]


def usual_candidates(series: int, periods: IntArray | int = 1) -> Selected:
    """The selection that a node uses: smoothing with and without season, as one season ago, and quantiles of the past."""
    return Selected(
        (
            HoltWinters(series, 1, alpha=0.4),
            HoltWinters(series, periods, alpha=0.2),
            SeasonalNaive(series, periods),
            HistogramForecaster(series),
        )
    )


def _pinball(given: FloatArray, forecast: FloatArray, share: float) -> FloatArray:
    error = given - forecast
    return np.maximum(share * error, (share - 1) * error)
