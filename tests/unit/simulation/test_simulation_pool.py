"""The warm pool in virtual time: against closed forms, stories, and bounds that no policy may break."""

from __future__ import annotations

import numpy as np
import pytest

from shardwright.controller import KeepAlive, RateParams, SpareParams
from shardwright.simulation import (
    DemandParams,
    Lane,
    PoolParams,
    Series,
    Sessions,
    evaluate_pool,
    make_sessions,
    replay,
    replay_within,
)
from shardwright.simulation._levels import clairvoyant, keep_alive, level_gaps, prewarming_clairvoyant

FEW = DemandParams(most_sessions=500)


def trace(name: str = "wave", *, rate: float = 0.1, cv: float = 1.0) -> Series:
    steps = 24 * 6
    values = rate * (1 + 0.8 * np.sin(np.arange(steps) / 10))
    return Series(name, 600.0, values, np.full(steps, cv))


@pytest.fixture(scope="module")
def sessions() -> Sessions:
    return make_sessions(trace(), 0, DemandParams(most_sessions=2000))


@pytest.mark.parametrize("keep_s", [0.0, 60.0, 600.0, 3600.0])
def test_a_keep_alive_replayed_is_its_closed_form(sessions: Sessions, keep_s: float) -> None:
    params = SpareParams(start_s=0.5).without_prewarming(keep_s)
    [outcome] = replay([Lane(sessions, params, False, sessions.score_from_s)])
    expected = keep_alive(level_gaps(sessions), keep_s, 0.5)
    assert outcome.visible == expected.visible
    assert outcome.starts == expected.starts
    assert outcome.hidden == 0
    assert outcome.idle_s == pytest.approx(expected.idle_s, rel=1e-9)


def test_the_same_demand_and_decisions_for_the_same_seed(sessions: Sessions) -> None:
    again = make_sessions(trace(), 0, DemandParams(most_sessions=2000))
    assert np.array_equal(again.events_s, sessions.events_s)
    lanes = [Lane(s, SpareParams(), False, s.score_from_s) for s in (sessions, again)]
    one, other = replay(lanes)
    assert one == other
    assert replay(lanes[:1]) == [one], "a lane is the same alone and beside others"
    assert not np.array_equal(make_sessions(trace(), 1, DemandParams()).events_s[:50], sessions.events_s[:50])


def test_nobody_beats_who_knows_everything(sessions: Sessions) -> None:
    gaps = level_gaps(sessions)
    for cold_s in (60.0, 600.0, 3600.0):
        [ours] = replay([Lane(sessions, SpareParams(cold_s, 15.0), False, sessions.score_from_s)])
        ahead = prewarming_clairvoyant(gaps, cold_s, 15.0, 0.5).cost(cold_s, 15.0)
        never = clairvoyant(gaps, cold_s, 0.5).cost(cold_s, 15.0)
        assert ahead <= ours.cost(cold_s, 15.0) * 1.001
        assert ahead <= never <= keep_alive(gaps, 600, 0.5).cost(cold_s, 15.0)


def test_it_costs_far_less_than_ten_minutes(sessions: Sessions) -> None:
    [ours] = replay([Lane(sessions, SpareParams(600.0, 15.0), False, sessions.score_from_s)])
    fixed = keep_alive(level_gaps(sessions), 600, 0.5)
    assert ours.cost(600, 15) < 0.7 * fixed.cost(600, 15)
    assert ours.visible < fixed.visible


def test_prewarming_is_off_where_it_does_not_pay(sessions: Sessions) -> None:
    [dear] = replay([Lane(sessions, SpareParams(10.0, 15.0), False, sessions.score_from_s)])
    assert dear.hidden == 0
    assert dear.visible > 0


def test_a_budget_is_kept() -> None:
    """The idleness of ten minutes and three times its starts, but for what is decided before anything was seen."""
    params = SpareParams(600.0, 18.0, 0.01, 200.0, rates=RateParams(), within=KeepAlive())
    demands = [make_sessions(trace(rate=0.02, cv=3.0), 1, FEW), make_sessions(trace(rate=0.03, cv=2.0), 2, FEW)]
    lanes = [Lane(demand, params, False, demand.score_from_s) for demand in demands]
    for lane, ours in zip(lanes, replay_within(lanes), strict=True):
        fixed = keep_alive(level_gaps(lane.sessions), 600, 0.01)
        assert ours.idle_s <= fixed.idle_s
        assert ours.starts <= 3 * fixed.starts + 12
        assert ours.visible < 0.5 * fixed.visible


def test_a_lane_within_a_budget_does_not_run_without_its_settings(sessions: Sessions) -> None:
    with pytest.raises(ValueError, match="replay_within"):
        replay([Lane(sessions, SpareParams(within=KeepAlive()))])


def test_a_burst_after_silence_is_learnt() -> None:
    """Ten sessions at once, every hour: after a few times they find ten shards, or few."""
    begins = np.concatenate([3600.0 * hour + 0.01 * np.arange(10) for hour in range(60)])
    events = np.concatenate((begins, begins + 30))
    kinds = np.concatenate((np.ones(begins.size, bool), np.zeros(begins.size, bool)))
    order = np.argsort(events, kind="stable")
    at_once = np.cumsum(np.where(kinds[order], 1, -1))
    demand = Sessions("bursts", 60 * 3600.0, 0.0, events[order], kinds[order], at_once, 600.0, np.full(360, 10 / 3600))
    [cheap] = replay([Lane(demand, SpareParams(600.0, 15.0), False, 20 * 3600.0)])
    [dear] = replay([Lane(demand, SpareParams(100_000.0, 15.0), False, 20 * 3600.0)])
    assert cheap.visible == 400, "an hour of ten shards costs more than ten cold starts"
    assert dear.visible <= 20


def regular(at_once: int, score_from_s: float) -> Sessions:
    """Every twenty seconds so many come for a second each, for 8,000 s."""
    begins = (20.0 * np.arange(400)[:, None] + 0.001 * np.arange(at_once)).ravel()
    events = np.sort(np.concatenate((begins, begins + 1)))
    kinds = np.tile(np.repeat((True, False), at_once), 400)
    running = np.cumsum(np.where(kinds, 1, -1))
    return Sessions("regular", 8000.0, score_from_s, events, kinds, running, 600.0, np.full(14, at_once / 20))


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("rates", [None, RateParams()])
def test_a_spare_lies_idle_until_it_is_dropped(rates: RateParams | None, at_once: int) -> None:
    """As many spares as come are always there or starting, which counts as well; what comes back is dropped for them."""
    [ours] = replay([Lane(regular(at_once, 4000.0), SpareParams(100_000.0, 15.0, rates=rates), False, 4000.0)])
    assert ours.visible == 0
    assert ours.starts == 200 * at_once
    assert ours.idle_s == pytest.approx(at_once * 4000.0), "what was held is not counted, or more than that"


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("rates", [None, RateParams()])
def test_what_is_never_dropped_lies_idle_while_it_is_not_used(rates: RateParams | None, at_once: int) -> None:
    """All that was ever started is there, and is idle but for the seconds of its sessions."""
    params = SpareParams(100_000.0, 15.0, rates=rates, surplus_s=1e9)
    [ours], [whole] = (replay([Lane(regular(at_once, s), params, False, s)]) for s in (4000.0, 0.0))
    assert ours.starts == 0
    assert whole.starts > 1
    assert ours.idle_s == pytest.approx(whole.starts * 4000.0 - 200 * at_once)


@pytest.mark.parametrize("rate", [0.02, 0.2])
def test_whoever_estimates_the_rate_pays_little_more_than_whoever_is_told(rate: float) -> None:
    steps = np.full(144, rate) * np.where(np.arange(144) // 12 % 2, 1.0, 0.2)
    demand = make_sessions(Series("steps", 600.0, steps, np.ones(144)), 0, DemandParams(most_sessions=700))
    params = SpareParams(600.0, 18.0, 0.01, 200.0, rates=RateParams())
    ours, told = replay([Lane(demand, params, told, demand.score_from_s) for told in (False, True)])
    assert ours.cost(600, 18) <= 1.2 * told.cost(600, 18)


def test_all_policies_over_a_small_fleet() -> None:
    traces = [trace("a"), trace("b", rate=0.03), trace("c", cv=4.0)]
    params = PoolParams(least_colds=1, demand=DemandParams(most_sessions=250))
    results = evaluate_pool(traces, params, [0])
    assert results == evaluate_pool(traces, params, [0])
    assert results.components
    assert (results.ratio("fixed 10 min", "cost") == 1).all()
    lowest = results.costs("clairvoyant")
    for policy in results.outcomes:
        assert (results.costs(policy) >= lowest * 0.999).all(), policy
