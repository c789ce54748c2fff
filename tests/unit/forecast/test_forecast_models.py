"""Quantiles, seasons, gaps, and who is believed."""

from __future__ import annotations

import numpy as np
import pytest

from shardwright.forecast import DecayingHistogram, HoltWinters, IdleGaps, SeasonalNaive, find_periods, usual_candidates


def test_quantiles_are_within_one_bucket() -> None:
    values = np.random.default_rng(1).lognormal(3, 1, (500, 3))
    histogram = DecayingHistogram(3, first=0.1, last=1e4, ratio=1.05, half_life=np.inf)
    for now, row in enumerate(values):
        histogram.observe(row, float(now))
    for share in (0.1, 0.5, 0.9, 0.99):
        exact = np.quantile(values, share, axis=0, method="inverted_cdf")
        found = histogram.quantile(share)
        assert (found >= exact * 0.999).all()
        assert (found <= exact * 1.051).all()


def test_the_past_fades_by_half_life_and_times_may_be_large() -> None:
    histogram = DecayingHistogram(1, first=1.0, last=1000.0, half_life=10.0)
    for now in range(100):
        histogram.observe(np.array([100.0]), float(now))
    for now in range(100, 112):
        histogram.observe(np.array([5.0]), float(now))
    assert histogram.quantile(0.5)[0] < 6
    histogram.observe(np.array([50.0]), 1e6)
    assert 50 <= histogram.quantile(0.5)[0] < 53
    assert histogram.total(1e6)[0] == pytest.approx(1.0)


def test_no_data_is_a_value() -> None:
    histogram = DecayingHistogram(2, first=1.0, last=10.0, half_life=1.0)
    histogram.observe(np.array([np.nan, 3.0]), 0.0)
    assert np.isnan(histogram.quantile(0.9)[0])
    assert histogram.quantile(0.9)[1] >= 3


def test_periods_are_found_in_the_data() -> None:
    noise = np.random.default_rng(2).normal(0, 0.5, (4, 600))
    time = np.arange(600)
    history = noise.copy()
    history[0] += 5 + 3 * np.sin(2 * np.pi * time / 24)
    history[1] += 5 + 3 * (time % 60 < 5)
    history[2] += 5 + 0.1 * time  # a line is no season
    history[0, ::7] = np.nan
    found = find_periods(history)
    assert found[0] == 24
    assert found[1] == 60
    assert found[2] == 1
    assert found[3] == 1
    assert find_periods(history[:, :3]).tolist() == [1, 1, 1, 1]


def test_smoothing_learns_a_season_and_a_trend() -> None:
    time = np.arange(480)
    season = 10 + 5 * np.sin(2 * np.pi * time / 24)
    model = HoltWinters(2, np.array([24, 1]))
    for tick in time:
        model.update(np.array([season[tick], 3.0 + tick * 0.1]))
    ahead = 10 + 5 * np.sin(2 * np.pi * np.arange(480, 504) / 24)
    assert np.abs(model.predict(24).middle[0] - ahead).max() < 0.5
    assert model.predict(1).middle[1, 0] == pytest.approx(3.0 + 48.0, abs=1.0)


def test_each_series_believes_its_best_model() -> None:
    time = np.arange(624)
    generator = np.random.default_rng(3)
    pulses = np.where(time % 48 == 0, 50.0, 1.0)
    noise = np.maximum(generator.normal(20, 5, 624), 0)
    model = usual_candidates(2, np.array([48, 1]))
    for tick in time:
        model.update(np.array([pulses[tick], noise[tick]]))
    assert model.best[0] == 2, "pulses are as one season ago"
    assert model.best[1] != 2, "noise is not as a moment ago"
    assert model.predict(1).middle[0, 0] == pytest.approx(50.0, abs=3)


def test_a_season_ago_before_a_season_has_passed_is_a_moment_ago() -> None:
    model = SeasonalNaive(1, 10)
    for value in (1.0, 2.0, 3.0):
        model.update(np.array([value]))
    assert model.predict(1).middle[0, 0] == 3.0
    with pytest.raises(ValueError, match="at least 1"):
        SeasonalNaive(1, 0)


def test_gaps_are_remembered_exactly_and_the_population_by_quantiles() -> None:
    gaps = IdleGaps(5, remember=4)
    assert gaps.population().size == 0
    for row in range(4):
        gaps.observe(np.full(6, row), np.array([10.0, 20.0, 30.0, 40.0, 50.0, 60.0]) * (row + 1))
    gaps.observe(np.array([4, 4]), np.array([np.nan, -1.0]))
    assert sorted(gaps.recent()[0].tolist()) == [30.0, 40.0, 50.0, 60.0]
    assert gaps.count.tolist() == [6, 6, 6, 6, 0]
    population = gaps.population(5)
    assert (np.diff(population) >= 0).all()
    assert 50 < population[2] < 120
    again = IdleGaps(5, remember=4)
    again.restore(gaps.snapshot())
    assert np.array_equal(again.population(5), population)
    assert np.array_equal(again.recent(), gaps.recent(), equal_nan=True)


def test_many_periodic_users_are_one_voice_each() -> None:
    gaps = IdleGaps(4)
    gaps.observe(np.zeros(1000, dtype=np.int64), np.full(1000, 1.0))
    for row in (1, 2, 3):
        gaps.observe(np.array([row]), np.array([1000.0]))
    assert gaps.population(4)[-1] > 900
    assert (gaps.population(4) > 900).sum() == 3
