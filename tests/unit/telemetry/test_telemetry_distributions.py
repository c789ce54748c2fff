"""Distributions: how many values were at most so large."""

from __future__ import annotations

from shardwright.telemetry import Metrics


def test_values_are_counted_up_to_each_bound() -> None:
    metrics = Metrics()
    for value in (0.05, 0.1, 0.2, 7.0):
        metrics.observe("wait_seconds", value, bounds=(0.1, 1.0), component="web")
    ((series, found),) = metrics.distributions().items()
    assert series == ("wait_seconds", (("component", "web"),))
    assert found.bounds == (0.1, 1.0)
    assert found.counts == (2, 3, 4)
    assert abs(found.total - 7.35) < 1e-9


def test_what_was_read_does_not_change_afterwards() -> None:
    metrics = Metrics()
    metrics.observe("wait_seconds", 1.0)
    before = metrics.distributions()
    metrics.observe("wait_seconds", 1.0)
    assert before["wait_seconds", ()].counts[-1] == 1
    assert metrics.distributions()["wait_seconds", ()].counts[-1] == 2
    assert not metrics.snapshot()
