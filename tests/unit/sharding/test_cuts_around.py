"""Which calls cross when some functions are cut, by what they are made within."""

from __future__ import annotations

from shardwright.model.profile import Context, Measured, MeasuredEdge, Profile, united
from shardwright.sharding.cuts._around import Crossing, affordable, crossing, leading_on

CONTEXTS = (
    Context("outer", -1, 10, 5.0),
    Context("inner", 0, 1000, 4.0),
    Context("inner", -1, 3, 0.01),
    Context("leaf", 1, 9000, 1.0),
    Context("leaf", 2, 9, 0.001),
)


def test_calls_within_what_is_cut_do_not_cross() -> None:
    assert crossing(CONTEXTS, {"outer", "inner", "leaf"}) == {
        "outer": Crossing(10, 5.0), "inner": Crossing(3, 0.01), "leaf": Crossing(),
    }  # fmt: skip
    assert crossing(CONTEXTS, {"leaf"}) == {"leaf": Crossing(9009, 1.001)}


def test_who_costs_more_than_it_does_stays_and_what_it_calls_is_counted_again() -> None:
    mean_s = {"outer": 0.5, "inner": 0.004, "leaf": 0.0001}
    found = affordable(CONTEXTS, {"outer": 0.001, "inner": 0.001, "leaf": 0.001}, mean_s, ())
    assert set(found) == {"outer", "inner"}, "a call of leaf is never worth the way"
    found = affordable(CONTEXTS, {"outer": 2.0, "inner": 0.001, "leaf": 0.001}, mean_s, ())
    assert found == {"inner": Crossing(1003, 4.01)}
    found = affordable(CONTEXTS, {"outer": 2.0, "inner": 0.02, "leaf": 0.00001}, mean_s, ())
    assert found == {"leaf": Crossing(9009, 1.001)}


def test_what_a_generator_does_after_its_call_counts_as_its_work() -> None:
    contexts = (Context("stream", -1, 100, 0.0001),)
    assert not affordable(contexts, {"stream": 0.01}, {"stream": 0.05}, ())
    assert affordable(contexts, {"stream": 0.01}, {"stream": 0.05}, {"stream"}) == {"stream": Crossing(100, 5.0)}


def test_runs_are_united_by_what_calls_are_within() -> None:
    both = united(CONTEXTS, CONTEXTS[2:3], CONTEXTS[:2])
    assert both == (
        Context("outer", -1, 20, 10.0),
        Context("inner", 0, 2000, 8.0),
        Context("inner", -1, 6, 0.02),
        *CONTEXTS[3:],
    )


def test_who_only_hands_on_is_no_point_to_cut_at() -> None:
    edges = tuple(MeasuredEdge("m:dispatch", f"m:f{number}", 1, 1.0) for number in range(40))
    functions = (Measured("m:dispatch", 40, 40.0, 0.5), Measured("m:f0", 1, 1.0, 1.0))
    profile = Profile(1, {}, 1, ("",), 41.0, 41.0, functions, edges)
    assert leading_on(profile) == {"m:dispatch"}
    assert leading_on(Profile(1, {}, 1, ("",), 41.0, 41.0, functions, edges[:8])) == frozenset()
