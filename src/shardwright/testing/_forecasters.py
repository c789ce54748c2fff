"""check_forecaster: one conformance suite over every implementation of Forecaster.

Each check is a plain function of a factory and raises AssertionError with what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from shardwright.contracts.forecast import FloatArray, Forecast, ForecasterFactory

ForecasterCheck = Callable[[ForecasterFactory], None]


def check_forecaster(factory: ForecasterFactory) -> None:
    """Run the whole suite over forecasters that ``factory`` makes for a number of series. Raises AssertionError."""
    for check in forecaster_checks().values():
        check(factory)


def forecaster_checks() -> dict[str, ForecasterCheck]:
    """The checks of ``check_forecaster`` by name."""
    return {
        "no_data": _check_no_data,
        "shapes": _check_shapes,
        "interval": _check_interval,
        "constant": _check_constant,
        "hostile_values": _check_hostile_values,
        "independence": _check_independence,
        "predict_changes_nothing": _check_predict_changes_nothing,
        "snapshot": _check_snapshot,
    }


def _fed(factory: ForecasterFactory, history: FloatArray) -> Forecast:
    forecaster = factory(history.shape[0])
    for values in history.T:
        forecaster.update(values)
    return forecaster.predict(5)


def _waves(series: int, ticks: int) -> FloatArray:
    time = np.arange(ticks)[None, :]
    number = np.arange(series)[:, None]
    noise = np.random.default_rng(7).normal(0, 1, (series, ticks))
    waves: FloatArray = np.maximum(10 * (number + 1) + 4 * np.sin(2 * np.pi * time / 24 + number) + noise, 0.0)
    return waves


def _check_honest(forecast: Forecast) -> None:
    for name in ("low", "middle", "high"):
        array = getattr(forecast, name)
        assert not np.isinf(array).any(), f"{name} holds an infinite value"
        assert not (array < 0).any(), f"{name} holds a negative amount"
        assert (np.isnan(array) == np.isnan(forecast.middle)).all(), f"{name} and middle disagree about 'no data'"
    known = ~np.isnan(forecast.middle)
    assert (forecast.low[known] <= forecast.middle[known]).all(), "low is above middle"
    assert (forecast.middle[known] <= forecast.high[known]).all(), "middle is above high"
    assert 0 < forecast.confidence < 1, f"confidence is {forecast.confidence}"


def _check_no_data(factory: ForecasterFactory) -> None:
    assert np.isnan(factory(3).predict(2).middle).all(), "it forecasts something before it has seen anything"
    history = _waves(3, 50)
    history[1] = np.nan
    forecast = _fed(factory, history)
    assert np.isnan(forecast.middle[1]).all(), "a series that was never measured must be 'no data', not a number"
    assert not np.isnan(forecast.middle[[0, 2]]).any(), "the silence of one series silenced its neighbours"
    assert factory(0).predict(1).middle.shape == (0, 1), "no series at all must be possible"


def _check_shapes(factory: ForecasterFactory) -> None:
    forecaster = factory(4)
    assert forecaster.series == 4
    forecaster.update(np.ones(4))
    assert forecaster.predict(3).middle.shape == (4, 3)
    for wrong in (np.ones(3), np.ones((4, 2))):
        try:
            forecaster.update(wrong)
        except ValueError:
            continue
        raise AssertionError(f"it took values of shape {wrong.shape} for 4 series")


def _check_interval(factory: ForecasterFactory) -> None:
    history = _waves(20, 400)
    forecaster, inside, asked, confidence = factory(20), 0, 0, 0.9
    for tick, values in enumerate(history.T):
        if tick >= 200:
            forecast = forecaster.predict(1)
            _check_honest(forecast)
            confidence = forecast.confidence
            inside += int(((forecast.low[:, 0] <= values) & (values <= forecast.high[:, 0])).sum())
            asked += values.size
        forecaster.update(values)
    assert inside / asked >= confidence - 0.15, f"{inside} of {asked} values were inside an interval of {confidence}"


def _check_constant(factory: ForecasterFactory) -> None:
    forecast = _fed(factory, np.full((2, 300), 7.0))
    assert np.allclose(forecast.middle, 7.0, rtol=0.06), f"after 300 times 7 it expects {forecast.middle[0]}"


def _check_hostile_values(factory: ForecasterFactory) -> None:
    history = _waves(4, 120)
    history[0, ::3] = np.nan
    history[1, ::4] = -5.0
    history[2, ::5] = np.inf
    history[3, 60] = 1e300
    with np.errstate(all="raise", under="ignore"):
        _check_honest(_fed(factory, history))
    clean = _waves(1, 120)
    holed = clean.copy()
    holed[0, ::4] = np.nan
    hostile = clean.copy()
    hostile[0, ::4] = -np.inf
    assert np.allclose(_fed(factory, holed).middle, _fed(factory, hostile).middle), (
        "infinite must count as not measured"
    )


def _check_independence(factory: ForecasterFactory) -> None:
    together = _fed(factory, _waves(3, 100))
    alone = _fed(factory, _waves(3, 100)[1:2])
    assert np.allclose(together.middle[1], alone.middle[0]), "a series is forecast otherwise beside others than alone"


def _check_predict_changes_nothing(factory: ForecasterFactory) -> None:
    one, other = factory(2), factory(2)
    for values in _waves(2, 80).T:
        one.predict(4)
        one.update(values)
        other.update(values)
    assert np.array_equal(one.predict(4).high, other.predict(4).high), "predict changed what is predicted"


def _check_snapshot(factory: ForecasterFactory) -> None:
    history = _waves(3, 150)
    whole, first, second = factory(3), factory(3), factory(3)
    for values in history[:, :90].T:
        whole.update(values)
        first.update(values)
    taken = first.snapshot()
    first.update(np.zeros(3))  # a snapshot is a copy
    second.restore(taken)
    for values in history[:, 90:].T:
        whole.update(values)
        second.update(values)
    forecast, again = whole.predict(5), second.predict(5)
    assert np.allclose(forecast.middle, again.middle), "a restored forecaster forecasts otherwise"
    assert np.allclose(forecast.high, again.high), "a restored forecaster has another interval"
    try:
        factory(2).restore(taken)
    except ValueError:
        return
    raise AssertionError("it took up a snapshot of another number of series")
