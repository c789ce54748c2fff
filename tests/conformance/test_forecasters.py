"""Every forecaster keeps the contract, and the suite finds those that do not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from shardwright.contracts.forecast import FloatArray, Forecast, ForecasterFactory
from shardwright.forecast import HistogramForecaster, HoltWinters, SeasonalNaive, usual_candidates
from shardwright.testing import check_forecaster, forecaster_checks

FORECASTERS: dict[str, ForecasterFactory] = {
    "histogram": HistogramForecaster,
    "smoothing": HoltWinters,
    "smoothing with season": lambda series: HoltWinters(series, 24),
    "as a moment ago": SeasonalNaive,
    "as a season ago": lambda series: SeasonalNaive(series, 24),
    "selected": lambda series: usual_candidates(series, 24),
}


@pytest.mark.parametrize("check", forecaster_checks())
@pytest.mark.parametrize("kind", FORECASTERS)
def test_it_keeps_the_contract(kind: str, check: str) -> None:
    forecaster_checks()[check](FORECASTERS[kind])


class _Optimist(SeasonalNaive):
    """Forecasts 0 where it knows nothing."""

    def predict(self, steps: int) -> Forecast:
        forecast = super().predict(steps)
        return Forecast(
            *(np.nan_to_num(a) for a in (forecast.low, forecast.middle, forecast.high)), forecast.confidence
        )


class _Sure(SeasonalNaive):
    """Is sure of what it says."""

    def predict(self, steps: int) -> Forecast:
        middle = super().predict(steps).middle
        return Forecast(middle, middle, middle, 0.9)


class _Credulous(SeasonalNaive):
    """Believes any number."""

    def update(self, values: FloatArray) -> None:
        super().update(np.nan_to_num(np.abs(values), nan=0.0, posinf=1e9))


class _Forgetful(SeasonalNaive):
    def restore(self, snapshot: object) -> None:
        pass


class _Restless(SeasonalNaive):
    def predict(self, steps: int) -> Forecast:
        forecast = super().predict(steps)
        self._last = self._last + 1
        self._past = self._past + 1
        return forecast


@pytest.mark.parametrize("planted", [_Optimist, _Sure, _Credulous, _Forgetful, _Restless])
def test_the_suite_finds_a_planted_defect(planted: Callable[[int], SeasonalNaive]) -> None:
    with pytest.raises(AssertionError):
        check_forecaster(planted)
