"""Forecasters that know seasons: Holt-Winters smoothing and "as one season ago", each with a period per series."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist

import numpy as np

from shardwright.contracts.forecast import FloatArray, Forecast, IntArray
from shardwright.forecast._arrays import copied, measured, taken_up

_SLOWEST = 0.02  # of the smoothing of errors, so that an interval is neither forgotten nor for ever


class _Errors:
    """How far forecasts of one step were off: an exponentially weighted mean of squares, per series."""

    __slots__ = ("count", "mean_square")

    def __init__(self, series: int) -> None:
        self.mean_square: FloatArray = np.zeros(series)
        self.count: FloatArray = np.zeros(series)

    def learn(self, error: FloatArray) -> None:
        """NaN: nothing was forecast, or nothing measured."""
        known = ~np.isnan(error)
        self.count += known
        weight = np.where(known, np.maximum(1.0 / np.maximum(self.count, 1.0), _SLOWEST), 0.0)
        square = np.where(known, np.minimum(np.abs(error), 1e150) ** 2, 0.0)
        self.mean_square += weight * (square - self.mean_square)

    def deviation(self, level: FloatArray) -> FloatArray:
        """Of one step; before the first error is known, as large as the level itself."""
        return np.where(self.count > 0, np.sqrt(self.mean_square), np.abs(level))


def _interval(middle: FloatArray, deviation: FloatArray, growth: FloatArray, confidence: float) -> Forecast:
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * deviation[:, None] * growth[None, :]
    middle = np.maximum(middle, 0.0)
    return Forecast(np.maximum(middle - half, 0.0), middle, np.minimum(middle + half, 1e300), confidence)


class HoltWinters:
    """Additive Holt-Winters with a damped trend; ``periods`` holds the season of every series in ticks, 1 for none.

    ``alpha``, ``beta``, ``gamma`` smooth level, trend and season; ``damping`` below 1 keeps a trend from running away.
    """

    def __init__(
        self,
        series: int,
        periods: IntArray | int = 1,
        *,
        alpha: float = 0.3,
        beta: float = 0.02,
        gamma: float = 0.2,
        damping: float = 0.9,
        confidence: float = 0.9,
    ) -> None:
        self._periods = np.broadcast_to(np.asarray(periods, dtype=np.int64), (series,)).copy()
        if series and np.min(self._periods) < 1:
            raise ValueError("a period is at least 1 tick")
        self._alpha, self._beta, self._gamma, self._damping = alpha, beta, gamma, damping
        self._confidence = confidence
        self._level: FloatArray = np.full(series, np.nan)
        self._trend: FloatArray = np.zeros(series)
        self._season: FloatArray = np.zeros((series, int(np.max(self._periods, initial=1))))
        self._ticks = 0
        self._errors = _Errors(series)
        self._rows = np.arange(series)

    @property
    def series(self) -> int:
        return int(self._level.size)

    def update(self, values: FloatArray) -> None:
        given = measured(values, self.series)
        column = self._ticks % self._periods
        learning = (self._periods > 1) & (self._ticks < self._periods)  # the first season is kept as it is
        season = np.where(learning, 0.0, self._season[self._rows, column])
        ahead = self._level + self._damping * self._trend
        error = given - np.maximum(ahead + season, 0.0)
        self._errors.learn(error)
        known = ~np.isnan(given)
        first = known & np.isnan(self._level)
        usual = known & ~first
        surprise = np.where(usual, given - ahead - season, 0.0)
        level = np.where(usual, ahead + self._alpha * surprise, np.where(known, given, self._level))
        trend = self._damping * self._trend + self._alpha * self._beta * surprise
        self._trend = np.where(usual & ~learning, trend, self._trend)
        self._level = level
        later = np.where(self._periods > 1, season + self._gamma * (1 - self._alpha) * surprise, 0.0)
        self._season[self._rows, column] = np.where(learning, given, later)
        self._ticks += 1
        ripe = np.flatnonzero(learning & (self._ticks == self._periods))
        if ripe.size:
            self._begin_season(ripe)

    def _begin_season(self, ripe: IntArray) -> None:
        """Turn the values of a first whole season into a level and what each tick differs from it."""
        for row in ripe.tolist():
            first = self._season[row, : self._periods[row]]
            known = ~np.isnan(first)
            if known.any():
                self._level[row] = first[known].mean()
            self._season[row, : self._periods[row]] = np.where(known, first - self._level[row], 0.0)

    def predict(self, steps: int) -> Forecast:
        ahead = np.arange(1, steps + 1)
        damped = np.cumsum(self._damping**ahead)
        columns = (self._ticks + ahead[None, :] - 1) % self._periods[:, None]
        learning = (self._periods > 1) & (self._ticks < self._periods)
        season = np.where(learning[:, None], 0.0, self._season[self._rows[:, None], columns])
        middle = self._level[:, None] + self._trend[:, None] * damped[None, :] + season
        growth = np.sqrt(1 + (ahead - 1) * self._alpha**2)
        return _interval(middle, self._errors.deviation(self._level), growth, self._confidence)

    def snapshot(self) -> dict[str, FloatArray]:
        return copied(
            periods=self._periods, level=self._level, trend=self._trend, season=self._season, ticks=self._ticks,
            mean_square=self._errors.mean_square, count=self._errors.count,
        )  # fmt: skip

    def restore(self, snapshot: Mapping[str, FloatArray]) -> None:
        fields = taken_up(
            snapshot, periods=self._periods.astype(np.float64), level=self._level, trend=self._trend, season=self._season,
            ticks=np.array(float(self._ticks)), mean_square=self._errors.mean_square, count=self._errors.count,
        )  # fmt: skip
        self._periods = fields["periods"].astype(np.int64)
        self._level, self._trend = fields["level"], fields["trend"]
        self._season, self._ticks = fields["season"], int(fields["ticks"])
        self._errors.mean_square, self._errors.count = fields["mean_square"], fields["count"]


class SeasonalNaive:
    """As one season ago; with a period of 1, as a moment ago."""

    def __init__(self, series: int, periods: IntArray | int = 1, *, confidence: float = 0.9) -> None:
        self._periods = np.broadcast_to(np.asarray(periods, dtype=np.int64), (series,)).copy()
        if series and np.min(self._periods) < 1:
            raise ValueError("a period is at least 1 tick")
        self._confidence = confidence
        self._past: FloatArray = np.full((series, int(np.max(self._periods, initial=1))), np.nan)
        self._last: FloatArray = np.full(series, np.nan)
        self._ticks = 0
        self._errors = _Errors(series)
        self._rows = np.arange(series)

    @property
    def series(self) -> int:
        return int(self._last.size)

    def update(self, values: FloatArray) -> None:
        given = measured(values, self.series)
        column = self._ticks % self._periods
        before = self._past[self._rows, column]
        expected = np.where(np.isnan(before), self._last, before)
        self._errors.learn(given - expected)
        self._past[self._rows, column] = np.where(np.isnan(given), before, given)
        self._last = np.where(np.isnan(given), self._last, given)
        self._ticks += 1

    def predict(self, steps: int) -> Forecast:
        ahead = np.arange(steps)
        past = self._past[self._rows[:, None], (self._ticks + ahead[None, :]) % self._periods[:, None]]
        middle = np.where(np.isnan(past), self._last[:, None], past)
        return _interval(middle, self._errors.deviation(self._last), np.ones(steps), self._confidence)

    def snapshot(self) -> dict[str, FloatArray]:
        return copied(
            periods=self._periods, past=self._past, last=self._last, ticks=self._ticks,
            mean_square=self._errors.mean_square, count=self._errors.count,
        )  # fmt: skip

    def restore(self, snapshot: Mapping[str, FloatArray]) -> None:
        fields = taken_up(
            snapshot, periods=self._periods.astype(np.float64), past=self._past, last=self._last,
            ticks=np.array(float(self._ticks)),
            mean_square=self._errors.mean_square, count=self._errors.count,
        )  # fmt: skip
        self._periods = fields["periods"].astype(np.int64)
        self._past, self._last = fields["past"], fields["last"]
        self._ticks = int(fields["ticks"])
        self._errors.mean_square, self._errors.count = fields["mean_square"], fields["count"]
