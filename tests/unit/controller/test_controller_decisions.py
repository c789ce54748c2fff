"""Stories: windows, needs, instances, limits of one container."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from shardwright.controller import (
    Container,
    LeanNeeds,
    LimitParams,
    Load,
    Needs,
    NodePolicies,
    adjust_resources,
    choose_windows,
    decide_instances,
)
from shardwright.model.ids import ComponentName, ShardId
from shardwright.model.limits import Limits, Resources
from shardwright.model.manifest import Component, Scale, UsageModel

MIB = 2**20


# -- windows


def window(gaps: list[float], cold_s: float = 600.0) -> tuple[float, float, float]:
    chosen = choose_windows(np.array([gaps]), np.empty(0), cold_s=cold_s, hidden_s=15.0, start_s=0.5)
    return float(chosen.keep_s[0]), float(chosen.again_s[0]), float(chosen.until_s[0])


def test_unknown_is_ski_rental() -> None:
    assert window([np.nan, np.nan]) == (600.0, np.inf, np.inf)


def test_a_strict_period_is_served_by_time() -> None:
    keep, again, until = window([3600.0 + d for d in (-0.4, 0.3, 0.1, -0.2, 0.0, 0.4, 0.2, -0.1)])
    assert keep == 0
    assert 3590 < again < 3600 < until < 3610


def test_frequent_use_is_kept_and_rare_use_is_not() -> None:
    keep, again, _ = window([20.0, 35.0, 10.0, 50.0, 25.0])
    assert keep >= 50
    assert again == np.inf
    assert window([90_000.0, 30_000.0, 200_000.0, 70_000.0])[:2] == (0.0, np.inf)


def test_who_knows_nothing_borrows_from_the_population() -> None:
    chosen = choose_windows(
        np.full((1, 4), np.nan), np.array([5.0, 8.0, 12.0]), cold_s=600.0, hidden_s=15.0, start_s=0.5
    )
    assert 12 <= chosen.keep_s[0] < 60


def test_what_windows_cost_is_what_they_say() -> None:
    chosen = choose_windows(
        np.array([[100.0, 100.2, 99.9] * 8] * 3), np.empty(0), cold_s=900.0, hidden_s=1.0, start_s=0.5
    )
    gaps = np.array([50.0, 100.0, 200.0])
    assert chosen.warm_after(gaps).tolist() == [False, True, False]
    idle = chosen.idle_s(gaps, 0.5)
    assert idle[0] == 0
    assert 0.5 < idle[1] < 10
    assert idle[2] == pytest.approx(float(chosen.until_s[2] - chosen.again_s[2]) + 0.5)


# -- needs


def test_guarantees_fall_short_as_rarely_as_asked() -> None:
    generator = np.random.default_rng(4)
    time = np.arange(1500)
    demand = np.stack(
        (generator.lognormal(0, 0.3, 1500), 5 + 4 * np.sin(2 * np.pi * time / 48) + generator.normal(0, 0.2, 1500))
    )
    needs = Needs(2, np.array([1, 48]), np.array([0.02, 0.05]))
    given = np.full(demand.shape, np.nan)
    for tick in time:
        given[:, tick] = needs.target()
        needs.update(demand[:, tick])
    assert np.isnan(given[:, 0]).all(), "no data is a value"
    short = (demand > given)[:, 500:].mean(axis=1)
    assert short[0] <= 0.035
    assert short[1] <= 0.08
    slack = 1 - np.minimum(demand, given)[1, 500:].sum() / given[1, 500:].sum()
    assert slack < 0.2, "the season is followed"


def test_lean_guarantees_fall_short_no_more_often_than_the_rule() -> None:
    generator = np.random.default_rng(5)
    time = np.arange(1200)
    spikes = np.where(generator.random(time.size) < 0.01, 40.0, 0.0)
    demand = np.stack((5 + generator.normal(0, 0.1, time.size) + spikes, 10 + 5 * np.sin(2 * np.pi * time / 48)))
    needs = LeanNeeds(2, np.array([1, 48]))
    given, rule = np.full(demand.shape, np.nan), np.full(demand.shape, np.nan)
    for tick in time:
        given[:, tick], rule[:, tick] = needs.target(), needs.rule()
        needs.update(demand[:, tick])
    assert np.isnan(given[:, 0]).all(), "no data is a value"
    assert np.array_equal(given[:, 1:388], rule[:, 1:388]), "little is known: the rule alone"
    scored = slice(500, None)
    assert ((demand > given)[:, scored].sum(axis=1) <= (demand > rule)[:, scored].sum(axis=1)).all()
    slack = [
        1 - np.minimum(demand, each)[:, scored].sum(axis=1) / each[:, scored].sum(axis=1) for each in (given, rule)
    ]
    assert slack[0][0] < 0.5 * slack[1][0], "spikes exceed the margin anyway"
    assert slack[0][1] < 0.9 * slack[1][1], "the season is followed"
    needs.update(np.array([np.nan, -1.0]))
    assert np.isfinite(needs.target()).all(), "what nobody measured changes nothing"


# -- instances


def component(**scale: float) -> Component:
    return Component(ComponentName("web"), "web", scale=Scale(**scale))  # type: ignore[arg-type]


def test_instances_follow_concurrency_within_the_bounds() -> None:
    web = component(min=0, max=8, target_concurrency=4.0)
    assert decide_instances(web, Load(1, 10.0, 10.0), 0.0).instances == 3
    assert decide_instances(web, Load(1, 1000.0, 1000.0), 0.0).instances == 8
    limited = replace(web, usage=UsageModel(max_instances=2))
    assert decide_instances(limited, Load(1, 1000.0, 1000.0), 0.0).instances == 2
    assert decide_instances(web, Load(2, None, None), 0.0).instances == 2, "nothing was measured: as it is"
    assert decide_instances(web, Load(2, float("nan"), None), 0.0).instances == 2


def test_a_panic_rises_at_once_and_does_not_sink_before_it_is_over() -> None:
    web = component(min=1, max=20, target_concurrency=1.0)
    decision = decide_instances(web, Load(2, 2.0, 10.0), 100.0)
    assert decision.instances == 10
    assert decision.panic_since_s == 100.0
    later = decide_instances(web, Load(10, 2.0, 1.0, panic_since_s=100.0), 130.0)
    assert later.instances == 10
    over = decide_instances(web, Load(10, 2.0, 1.0, panic_since_s=100.0), 200.0)
    assert over.instances == 5, "by half at once, not more"


def test_to_zero_and_back() -> None:
    web = component(min=0, max=4, target_concurrency=4.0)
    assert decide_instances(web, Load(1, 0.0, 0.0, idle_since_s=0.0), 30.0).instances == 1
    assert decide_instances(web, Load(1, 0.0, 0.0, idle_since_s=0.0), 61.0).instances == 0
    assert decide_instances(web, Load(0, 0.0, 0.0, queued=1), 100.0).instances == 1
    kept = component(min=1, max=4)
    assert decide_instances(kept, Load(1, 0.0, 0.0, idle_since_s=0.0), 1e6).instances == 1


def test_a_waiting_time_asks_for_more_than_the_load() -> None:
    web = replace(component(min=0, max=100, target_concurrency=1.0), usage=UsageModel(latency_slo_s=0.02))
    decision = decide_instances(web, Load(1, 16.0, 16.0, arrivals_s=160.0, service_s=0.1), 0.0)
    assert 20 <= decision.instances <= 26


# -- one container


def container(name: str = "a", **changes: object) -> Container:
    limits = Limits(Resources(cpu=1.0, memory_bytes=128 * MIB), Resources(cpu=4.0, memory_bytes=512 * MIB))
    floor = Resources(cpu=0.25, memory_bytes=64 * MIB)
    usual = Container(ShardId(name), floor, limits, cpu=0.9, memory_bytes=100 * MIB, measured_s=1000.0)
    return replace(usual, **changes)  # type: ignore[arg-type]


POLICIES = NodePolicies(Resources(cpu=4.0, memory_bytes=1024 * MIB), params=LimitParams(calm_s=10.0))


def test_what_it_was_kept_from_taking_is_needed_too() -> None:
    busy = container(cpu=1.0, throttled_cpu=0.5, queued_cpu=0.5)
    assert adjust_resources(busy, UsageModel(), POLICIES, 1000.0).limits.guarantee.cpu == pytest.approx(2.3)


def test_it_sinks_after_a_while_by_steps_and_never_below_floor_or_working_set() -> None:
    idle = container(cpu=0.01, calm_since_s=995.0)
    assert adjust_resources(idle, UsageModel(), POLICIES, 1000.0) is idle
    now = 1010.0
    for _ in range(20):
        idle = adjust_resources(replace(idle, measured_s=now), UsageModel(), POLICIES, now)
        now += 11
    assert idle.limits.guarantee.cpu == pytest.approx(0.25, abs=0.03)
    assert (idle.limits.guarantee.memory_bytes or 0) >= 100 * MIB * 1.1 - 1


def test_stale_metrics_freeze() -> None:
    stale = container(cpu=3.9, throttled_cpu=1.0, measured_s=900.0)
    assert adjust_resources(stale, UsageModel(), POLICIES, 1000.0) is stale


def test_others_are_not_robbed_and_the_order_does_not_matter() -> None:
    one = container("a", cpu=1.0, throttled_cpu=9.0)
    other = container("b", cpu=1.0, throttled_cpu=9.0)
    first = adjust_resources(
        one, UsageModel(priority=90), replace(POLICIES, others=[(other, UsageModel(priority=10))]), 1000.0
    )
    second = adjust_resources(
        other, UsageModel(priority=10), replace(POLICIES, others=[(one, UsageModel(priority=90))]), 1000.0
    )
    total = (first.limits.guarantee.cpu or 0) + (second.limits.guarantee.cpu or 0)
    assert total <= 4.0 + 1e-9
    assert first.limits.guarantee.cpu == pytest.approx(3.75, abs=0.01)
    assert second.limits.guarantee.cpu == pytest.approx(0.25, abs=0.01)
