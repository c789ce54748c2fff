"""The filter over rates: what silence and arrivals say, how clusters count, and what follows for spares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.controller import RateParams, Rates
from shardwright.controller._rates import RATES, need_shares

ROW = np.zeros(1, dtype=np.int64)


def fed(gaps: list[float], start_s: float = 0.01, others: int = 0) -> Rates:
    rates = Rates([RateParams()], np.array([start_s]), 12)
    for at in np.cumsum(gaps):
        rates.arrived(ROW, np.array([at]), np.array([0]))
        for more in range(others):
            rates.arrived(ROW, np.array([at]), np.array([more + 1]))
    return rates


def ahead(rates: Rates, cold_s: float = 600.0, hidden_s: float = 18.0) -> tuple[np.ndarray, np.ndarray]:
    keep, worth = rates.ahead(ROW, np.array([cold_s]), np.array([hidden_s]))
    return keep[0], worth[0]


@pytest.mark.parametrize("gap_s", [2.0, 30.0, 400.0])
def test_regular_arrivals_tell_their_rate(gap_s: float) -> None:
    present = fed([gap_s] * 60).present[0]
    assert 0.5 / gap_s < np.exp(present @ np.log(RATES)) < 2 / gap_s


def test_what_is_frequent_is_kept_and_what_is_rare_is_not() -> None:
    keep, worth = ahead(fed([20.0] * 50))
    assert worth[0] and keep[0] > 60
    keep, worth = ahead(fed([50_000.0] * 50))
    assert not worth[0]


def test_the_first_call_after_silence_begins_a_burst_where_bursts_were_seen() -> None:
    burst = [20_000.0, *[3.0] * 30]
    learnt = fed(burst * 8 + [20_000.0])
    fresh = fed([20_000.0] * 9)
    assert ahead(learnt)[1][0], "a spare is worth a start: more are about to come"
    assert not ahead(fresh)[1][0]
    assert ahead(fed(burst * 8))[0][0] < 1000, "after the last of a burst it is soon over"


def test_clusters_need_as_many_spares_as_they_have_arrivals() -> None:
    _, worth = ahead(fed([30.0] * 60, others=3))
    assert worth[:4].all()
    assert not worth[4:].any()
    _, alone = ahead(fed([30.0] * 60))
    assert alone.tolist() == [True] + [False] * 11


def test_chance_alone_brings_arrivals_together() -> None:
    shares = need_shares(0.5, 4)
    place = int(np.argmin(np.abs(RATES - 0.3)))
    load = RATES[place] * 0.5
    assert shares[:, place] == pytest.approx(
        [1, 1 - np.exp(-load), 1 - np.exp(-load) * (1 + load), 1 - np.exp(-load) * (1 + load + load**2 / 2)]
    )


def test_rows_do_not_know_of_each_other() -> None:
    both = Rates([RateParams(), RateParams()], np.array([0.01, 0.01]), 12)
    for at in range(0, 600, 30):
        both.arrived(ROW, np.array([float(at)]), np.array([0]))
    alone = fed([0.0] + [30.0] * 19)
    assert np.allclose(both.present[0], alone.present[0])
    assert np.array_equal(both.present[1], Rates([RateParams()], np.array([0.01]), 12).present[0])


@settings(max_examples=60, deadline=None)
@given(
    gaps=st.lists(st.floats(0, 1e6), min_size=1, max_size=30),
    cold_s=st.floats(0, 1e7),
    hidden_s=st.floats(0, 1e4),
    others=st.lists(st.integers(0, 40), min_size=30, max_size=30),
)
def test_any_arrivals_give_a_distribution_and_sound_decisions(
    gaps: list[float], cold_s: float, hidden_s: float, others: list[int]
) -> None:
    rates = Rates([RateParams()], np.array([0.5]), 12)
    for at, count in zip(np.cumsum(gaps), others, strict=False):
        rates.arrived(ROW, np.array([at]), np.array([count]))
        assert rates.present.sum() == pytest.approx(1)
        keep, worth = ahead(rates, cold_s, hidden_s)
        assert not np.isnan(keep).any() and (keep >= 0).all()
        assert (keep[1:] <= keep[:-1] + 1e-6).all(), "a later spare is worth no more than an earlier one"
        assert not (worth & (keep <= 0)).any()
        more, _ = ahead(rates, cold_s * 2 + 1, hidden_s)
        assert (more >= keep - 1e-6).all(), "dearer cold starts keep spares for longer"
