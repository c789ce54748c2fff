"""``shardwright bench``: its record, its remedy, and that two do not run at once."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cli_apps import environment, shardwright
from limits_here import need_limits


@pytest.mark.slow
def test_the_gateway_is_measured_beside_the_same_library(
    tmp_path: Path, record_exercised: Callable[[str, int], None]
) -> None:
    if shutil.which("wrk") is None:
        pytest.skip("no wrk")
    ended = shardwright(tmp_path, "bench", "gateway", "--seconds", "1", "--rounds", "1", "--json", timeout=110)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["machine"]["cores"] == os.cpu_count()
    records = {record["case"]: record for record in told["records"]}
    assert set(records) == {
        "no-op, library in process",
        "auth to inventory, library in process",
        "no-op, front in process",
        "no-op, gateway",
        "auth to inventory, gateway",
    }
    for record in records.values():
        assert record["requests_per_s"] > 0 and 0 < record["p50_us"] <= record["p99_us"]
        assert record["ratio_to_in_process"] > 0 and record["cpu_us_per_request"] > 0
    assert {f"cpu_us_per_request_{name}" for name in ("gateway", "auth", "inventory", "wrk")} <= set(
        records["auth to inventory, gateway"]
    )
    record_exercised(
        "requests a second of a no-op through the gateway", round(records["no-op, gateway"]["requests_per_s"])
    )


def test_without_wrk_the_remedy_is_told(tmp_path: Path) -> None:
    ended = shardwright(tmp_path, "bench", "gateway", "--json", more={"PATH": str(tmp_path)})
    assert ended.returncode == 1
    assert "apt-get install wrk" in json.loads(ended.stderr.splitlines()[-1])["error"]["remedy"]


def test_a_second_benchmark_waits_for_the_first(tmp_path: Path) -> None:
    lock = Path(tempfile.gettempdir()) / f"shardwright-bench-{os.getuid()}.lock"
    with open(lock, "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with subprocess.Popen(
            [sys.executable, "-m", "shardwright", "bench", "gateway"],
            stderr=subprocess.PIPE,
            text=True,
            env=environment(tmp_path, {"PATH": str(tmp_path)}),
        ) as second:
            assert second.stderr is not None
            assert "another benchmark runs" in second.stderr.readline()
            assert second.poll() is None
            fcntl.flock(held, fcntl.LOCK_UN)
            assert second.wait(60) == 1, "its turn has come, and there is no wrk"


@pytest.mark.slow
def test_starts_are_measured_beside_a_plain_fork(tmp_path: Path, record_exercised: Callable[[str, int], None]) -> None:
    ended = shardwright(tmp_path, "bench", "start", "--rounds", "2", "--shards", "3", "--json", timeout=110)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)["records"]
    records = {record["backend"]: record for record in found if record["case"] == "start"}
    assert "process" in records
    in_a_row = [record for record in found if record["case"] == "start in a row"]
    assert {record["backend"] for record in in_a_row} == records.keys()
    for record in (record for record in found if record["case"] == "container"):
        assert 0 < record["ready_min_ms"] <= record["ready_p50_ms"] and record["by_hand_p50_ms"] > 0
    for record in records.values():
        assert 0 < record["fork_p50_ms"] < record["ready_p50_ms"] and record["ready_min_ms"] <= record["ready_p50_ms"]
        assert 0 < record["plain_fork_p50_ms"] < record["fresh_interpreter_p50_ms"]
        assert record["shards"] == 3 and 0 < record["private_mib"] <= record["pss_mib"]
        assert "mem_available_drop_mib" in record
    record_exercised("kinds of sandbox whose start was measured", len(records))


@pytest.mark.slow
def test_calls_are_measured_beside_the_floor_and_other_ways(
    tmp_path: Path, record_exercised: Callable[[str, int], None]
) -> None:
    ended = shardwright(
        tmp_path, "bench", "call", "--seconds", "0.01", "--rounds", "2", "--sizes", "64,4096", "--json", timeout=110
    )
    assert ended.returncode == 0, ended.stderr
    records = json.loads(ended.stdout)["records"]
    assert {"floor", "ring", "socketpair", "pipe", "managers", "pool", "plain", "call"} <= {r["case"] for r in records}
    for record in records:
        assert 0 < record["p50_low_us"] <= record["p50_us"] <= record["p50_high_us"]
        assert record["per_second"] > 0 or record["case"] == "idle"
        assert record["placement"] in ("same", "split", "free") and record["samples"] > 0
        assert record["ratio_to_floor"] is None or record["ratio_to_floor"] > 0
    calls = [record for record in records if record["case"] == "call"]
    assert {record["trust"] for record in calls} == {"same", "across"} and {r["in_flight"] for r in calls} == {1, 8, 64}
    assert {record["transport"] for record in calls} == {"shm"}
    assert all(record["ratio_to_floor"] is not None for record in calls)
    others = {case: [r for r in records if r["case"] == case] for case in ("array", "callers", "idle")}
    assert {(r["trust"], r["placement"]) for r in others["array"]} == {
        (trust, placement) for trust in ("same", "across") for placement in ("same", "split", "free")
    }
    assert all(record["gb_per_s"] > 0 for record in others["array"])
    assert all(record["in_flight"] == 200 and record["max_over_min"] >= 1 for record in others["callers"])
    assert all(record["channels"] == 1000 and record["core_percent"] > 0 for record in others["idle"])
    record_exercised("conditions under which a call was measured", len(calls))


def test_sizes_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    ended = shardwright(tmp_path, "bench", "call", "--sizes", "small")
    assert ended.returncode == 2 and "no numbers" in ended.stderr


def test_sessions_are_measured_beside_their_floor(tmp_path: Path, record_exercised: Callable[[str, int], None]) -> None:
    ended = shardwright(tmp_path, "bench", "compose", "--rounds", "1", "--json", timeout=110)
    assert ended.returncode == 0, ended.stderr
    records = json.loads(ended.stdout)["records"]
    of_process = {(r["case"], r["shards"], r["warm"]) for r in records if r["backend"] == "process"}
    composed = {("compose", shards, warm) for shards in (1, 5) for warm in (True, False)}
    in_a_row = {("compose in a row", shards, True) for shards in (1, 5)}
    assert of_process == composed | in_a_row | {("at once", 50, False)}
    for record in records:
        assert 0 < record["min_us"] <= record["p50_us"] <= record["answered_p50_us"]
        assert record["case"] == "compose in a row" or record["floor_p50_us"] > 0
        assert record["case"] != "compose" or 0 < record["first_call_p50_us"] < record["answered_p50_us"]
    record_exercised("kinds of composition that were measured", len(records))


@pytest.mark.slow
def test_limits_are_measured_and_hold(tmp_path: Path, record_exercised: Callable[[str, int], None]) -> None:
    need_limits()
    ended = shardwright(tmp_path, "bench", "resize", "--rounds", "30", "--json", timeout=110)
    assert ended.returncode == 0, ended.stderr
    records = json.loads(ended.stdout)["records"]
    limits = [record for record in records if record["case"] == "limit"]
    assert {record["resource"] for record in limits} == {"cpu", "memory", "io", "network"}
    for record in limits:
        assert "unmeasured" in record or record["apply_p50_us"] > 0
        # a machine that others use as well may give less, and a moment's backlog a little more, in one window of a second
        assert record.get("error", 0.0) < 0.25, record
    ceilings = [record for record in records if record["case"] == "memory ceiling"]
    assert [record["asked"] for record in ceilings] == [100 * 2**20, 1500 * 2**20]
    for record in ceilings:
        assert record["stopped"] and record["neighbour_unharmed"] and record["reads_back"] == record["asked"], record
        assert "memory ceiling" in record["event"] and "about to take" in record["event_log"].splitlines()[-1]
    record_exercised("limits that were changed and measured", len(limits) + len(ceilings))


def test_decisions_for_a_fleet_are_measured(tmp_path: Path, record_exercised: Callable[[str, int], None]) -> None:
    small = ("--shards", "500", "--nodes", "5", "--ticks", "3", "--rounds", "2")
    ended = shardwright(tmp_path, "bench", "fleet", *small, "--json", timeout=110)
    assert ended.returncode == 0, ended.stderr
    *ticks, fleet = json.loads(ended.stdout)["records"]
    assert [tick["shards"] for tick in ticks] == [1_000, 1_000, 10_000, 10_000, 100_000, 100_000]
    for tick in ticks:
        assert tick["changed_a_tick"] > 0, "nothing was decided"
        assert 0 < tick["p50_ms"] <= tick["max_ms"]
        # CPU time of one core; at 100,000 the arrays no longer fit into the caches
        assert tick["p50_ms"] <= 50 * max(1, tick["shards"] / 10_000), "a tick for 10,000 shards takes more than 50 ms"
    assert (fleet["shards"], fleet["nodes"], fleet["simulated_s"]) == (500, 5, 30)
    assert fleet["took_s"] > 0 and fleet["peak_mib"] > 10 and fleet["overcommitted"] == 0
    record_exercised("decisions measured", len(ticks))
