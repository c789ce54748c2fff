"""Demand of shards from what the kernel and they say; histories across restarts."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from shardwright.forecast import DecayingHistogram
from shardwright.model.ids import ShardId
from shardwright.model.limits import Usage
from shardwright.monitoring import CallCounts, Histories, History, Observer, Stalls, pressure

A = ShardId("a-1")


def schedstat(proc: Path, thread: str, delay_ns: int) -> None:
    folder = proc / "7" / "task" / thread
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "schedstat").write_text(f"123 {delay_ns} 9\n")


def test_demand_is_usage_and_what_it_was_kept_from(tmp_path: Path) -> None:
    observer = Observer(str(tmp_path))
    schedstat(tmp_path, "7", 1_000_000_000)
    first = observer.look(10.0, {A: Usage(1.0, 5000, 3, 0.5)}, {A: 8.0}, {A: 7}, {})[A]
    assert (first.cpu, first.throttled, first.memory_bytes) == (0.5, 0.25, 5000)
    assert first.waiting == pytest.approx(0.25), "run delay of its threads, less what it was throttled"
    schedstat(tmp_path, "7", 1_500_000_000)
    schedstat(tmp_path, "8", 200_000_000)
    counts = {A: CallCounts(received=10, running=1, queued=0)}
    second = observer.look(12.0, {A: Usage(2.0, 6000, 3, 0.5)}, {A: 8.0}, {A: 7}, counts)[A]
    assert second.waiting == pytest.approx(0.35), "also of threads that were not there before"
    assert (second.concurrency, second.queued) == (1.0, 0.0)
    counts = {A: CallCounts(received=30, running=1, queued=4)}
    third = observer.look(14.0, {A: Usage(3.0, 6000, 3, 0.5)}, {A: 8.0}, {}, counts)[A]
    assert (third.arrivals_s, third.concurrency) == (10.0, 5.0)
    assert third.queued == pytest.approx(4 * 1.0 / 20), "what waits, by what a call took"
    assert third.demand == pytest.approx(0.5 + 0.2)


def test_numbers_that_go_back_or_are_none_are_no_demand(tmp_path: Path) -> None:
    observer = Observer(str(tmp_path))
    observer.look(1.0, {A: Usage(5.0, 1)}, {A: 0.0}, {A: 7}, {})
    assert observer.look(2.0, {A: Usage(4.0, 1)}, {A: 0.0}, {}, {}) == {}
    assert observer.last(A) is None
    assert observer.look(3.0, {A: Usage(math.nan, 1), "b": None}, {}, {}, {}) == {}
    again = observer.look(4.0, {A: Usage(5.0, -7)}, {A: 0.0}, {A: 99999}, {})[A]
    assert (again.cpu, again.waiting, again.memory_bytes) == (0.5, 0.0, 0)
    liar = {A: CallCounts(received=10**15, running=-5, queued=10**12)}
    for at in (5.0, 6.0):
        told = observer.look(at, {A: Usage(at, 1)}, {}, {}, liar)[A]
    assert 0 <= told.queued <= 10 and told.demand < 100
    observer.keep(())
    assert observer.last(A) is None


def test_pressure_is_read_where_there_is_any(tmp_path: Path) -> None:
    assert pressure(str(tmp_path)) == {}
    (tmp_path / "pressure").mkdir()
    (tmp_path / "pressure" / "cpu").write_text("some avg10=12.50 avg60=1.00 avg300=0.00 total=5\n")
    (tmp_path / "pressure" / "memory").write_text("nonsense\n")
    assert pressure(str(tmp_path)) == {"cpu": 0.125}


def test_histories_are_decaying_histograms_and_outlive_the_process(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    histories, reference = (
        Histories(half_life_s=50.0),
        DecayingHistogram(1, first=1e-3, last=1e6, ratio=1.1, half_life=50.0),
    )
    for second, value in enumerate(rng.lognormal(0, 1, 3000).tolist()):
        histories.observe("a.cpu", value, 1e9 + second)
        reference.observe(np.array([value]), float(second))
    for share in (0.1, 0.5, 0.9, 0.99):
        assert histories.quantile("a.cpu", share) == pytest.approx(reference.quantile(share)[0], rel=1e-6)
    assert math.isnan(histories.quantile("b.cpu", 0.5))
    histories.save(tmp_path / "histories.json")
    assert (tmp_path / "histories.json").stat().st_mode & 0o777 == 0o600
    later = Histories(half_life_s=50.0)
    assert later.load(tmp_path / "histories.json")
    assert later.quantile("a.cpu", 0.9) == histories.quantile("a.cpu", 0.9)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"form": 2, "series": {}}', '{"form": 1, "series": {"a": {"origin_s": 0, "weights": {"0": -1}}}}',
     '{"form": 1, "series": {"a": {"origin_s": NaN, "weights": {"0": 1}}}}',
     '{"form": 1, "series": {"a": {"origin_s": 0, "weights": {"99999": 1}}}}', '{"form": 1, "series": 7}'],
)  # fmt: skip
def test_histories_that_cannot_be_read_begin_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "h.json").write_text(text)
    histories = Histories()
    assert not histories.load(tmp_path / "h.json")
    histories.observe("a", 1.0, 5.0)
    histories.save(tmp_path / "h.json")
    assert json.loads((tmp_path / "h.json").read_text())["form"] == 1


def test_a_history_ignores_what_is_no_amount_and_clocks_that_go_back() -> None:
    history = History(10.0)
    for bad in (math.nan, -1.0, math.inf):
        history.observe(bad, 1.0)
    assert math.isnan(history.quantile(0.5))
    history.observe(2.0, 1e9)
    history.observe(2.0, 5.0)
    assert history.quantile(0.5) == pytest.approx(2.0, rel=0.1)


def test_stalls_are_told_from_look_to_look(tmp_path: Path) -> None:
    (tmp_path / "pressure").mkdir()
    file = tmp_path / "pressure" / "cpu"

    def stalled(total_us: int) -> None:
        file.write_text(f"some avg10=0.00 avg60=0.00 avg300=0.00 total={total_us}\nfull avg10=0.00 total=0\n")

    stalled(5_000_000)
    stalls = Stalls(str(tmp_path))
    assert math.isnan(stalls.share(1.0)), "nothing to compare with"
    stalled(5_050_000)
    assert stalls.share(1.1) == pytest.approx(0.5)
    assert stalls.share(1.2) == 0.0
    stalled(9_000_000)
    assert stalls.share(1.3) == 1.0, "no more than the time that has passed"
    file.write_text("nothing of use")
    assert math.isnan(stalls.share(1.4))
    stalls.close()
    assert math.isnan(Stalls(str(tmp_path / "nowhere")).share(1.0)), "a kernel that tells none"
