from __future__ import annotations

import threading

import pytest

from shardwright.telemetry import Event, EventLog


class _StoppedClock:
    def monotonic_s(self) -> float:
        return 5.0

    def wall_s(self) -> float:
        return 12.5


def test_events_are_kept_in_order_with_their_attributes():
    log = EventLog(clock=_StoppedClock())
    log.emit("shard.started", "render-1 is ready", shard="render-1", component="render", after_s=0.003)
    log.emit("session.ended", session="ann")
    first, second = log.since()
    assert (first.sequence, second.sequence) == (1, 2)
    assert first.event == Event(
        12.5, "shard.started", "render-1 is ready", "render-1", None, "render", (("after_s", 0.003),)
    )
    assert second.event.session == "ann"
    assert log.since(1) == (second,)
    assert log.since(2) == log.since(99) == ()
    with pytest.raises(AttributeError, match="immutable"):
        first.event.kind = "other"


def test_the_ring_is_bounded_and_a_gap_shows_what_was_dropped():
    log = EventLog(3)
    for number in range(10):
        log.emit("tick", number=number)
    assert [recorded.sequence for recorded in log.since()] == [8, 9, 10]
    assert [recorded.sequence for recorded in log.since(8)] == [9, 10]
    assert [recorded.sequence for recorded in log.since(2)] == [8, 9, 10]
    assert log.last_sequence == 10
    assert "kept=3" in repr(log)


def test_a_log_that_nobody_reads_does_nothing():
    log = EventLog(0)
    log.emit("tick")
    assert not log.enabled
    assert log.last_sequence == 0
    seen = []
    unsubscribe = log.subscribe(seen.append)
    assert log.enabled
    log.emit("tick")
    unsubscribe()
    log.emit("tick")
    assert [recorded.event.kind for recorded in seen] == ["tick"]
    assert log.since() == ()


def test_one_subscriber_twice_is_two_subscriptions():
    log, seen = EventLog(), []
    first, second = log.subscribe(seen.append), log.subscribe(seen.append)
    log.emit("a")
    first()
    first()
    log.emit("b")
    second()
    log.emit("c")
    assert [recorded.event.kind for recorded in seen] == ["a", "a", "b"]


def test_a_failing_subscriber_is_dropped_and_said():
    log, seen = EventLog(), []

    def fails(recorded):
        raise RuntimeError("full disk")

    log.subscribe(fails)
    log.subscribe(seen.append)
    log.emit("a")
    log.emit("b")
    assert [recorded.event.kind for recorded in seen] == ["a", "telemetry.subscriber_failed", "b"]
    assert "full disk" in seen[1].event.message


def test_a_subscriber_may_emit():
    log = EventLog()

    def answer(recorded):
        if recorded.event.kind == "question":
            log.emit("answer")

    log.subscribe(answer)
    log.emit("question")
    assert [recorded.event.kind for recorded in log.since()] == ["question", "answer"]


def test_threads_share_one_sequence():
    log, seen = EventLog(10_000), []
    log.subscribe(seen.append)
    threads = [threading.Thread(target=lambda: [log.emit("tick") for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [recorded.sequence for recorded in seen] == list(range(1, 2001))
    assert list(log.since()) == seen


def test_a_negative_capacity_is_refused():
    with pytest.raises(ValueError, match="negative"):
        EventLog(-1)
