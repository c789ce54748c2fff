"""The numbers of a running node: what its shards did, what they take, how they ended."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

import shardwright
from cli_apps import background, write_app
from cli_apps import shardwright as command
from shardwright.errors import CompositionRefused, DeadlineExceeded, ShardLost
from shardwright.node import Node

MANIFEST = """
[app]
name = "counted"
[components.front]
code = "front"
resources = { cpu = 0.1, memory = "32MiB" }
limits = { cpu = 1.0, memory = "512MiB" }
[components.back]
code = "back"
scope = "session"
resources = { memory = "48MiB" }
warm = { min = 1, max = 2 }
[components.back.usage]
max_instances = 2
"""
FRONT = """
import back
def work(count):
    return sum(back.one(n) for n in range(count))
def burn():
    import time
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
"""
BACK = """
import os, time
def one(n):
    return 1
def crash():
    os._exit(7)
def sleep(seconds):
    time.sleep(seconds)
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    return write_app(tmp_path / "counted", MANIFEST, front=FRONT, back=BACK)


def numbers(node: Node) -> dict[tuple[str, ...], float]:
    return flat(node.metrics().decode())


def until(node: Node, *series: str) -> None:
    """Wait until that number is above 0."""
    deadline = time.monotonic() + 20
    while not numbers(node).get(series):
        assert time.monotonic() < deadline, series
        time.sleep(0.01)


def flat(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name.removeprefix("shardwright_"), *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in parse_plain(text)
        for sample in family.samples
    }


def test_a_node_tells_what_happened(app: Path, tmp_path: Path) -> None:
    with shardwright.start(app, state=tmp_path / "s") as node:
        before = numbers(node)
        assert before["node_ready",] == 1 and before["keeper_up",] == 1
        assert before["shards", "front", "ready"] == 1 and before["shards", "back", "ready"] == 1
        assert before["pool_shards", "back"] == 1 and before["sessions",] == 0
        assert before["memory_guaranteed_bytes", "back"] == 48 << 20
        assert before["memory_ceiling_bytes", "front"] == 512 << 20
        assert before["cpu_guaranteed_cores", "front"] == pytest.approx(0.1)
        assert before["node_memory_reserved_bytes",] == 80 << 20
        assert before["node_memory_capacity_bytes",] > before["node_memory_reserved_bytes",]
        with node.session("one") as session:
            assert session.call("front.work", 50) == 50
            session.call("front.burn")
            during = numbers(node)
            assert during["sessions",] == 1 and during["shards", "back", "ready"] >= 1
            assert during["calls_made_total", "front"] == 50
            assert during["calls_received_total", "back"] == 50
            assert during["calls_received_total", "front"] == 2
            assert during["cpu_usage_seconds_total", "front"] - before["cpu_usage_seconds_total", "front"] >= 0.15
            assert during["memory_usage_bytes", "front"] > 1 << 20
            assert during["leases_total", "back", "warm"] == 1
            assert during["compositions_total", "granted"] > before.get(("compositions_total", "granted"), 0)
            with pytest.raises(ShardLost):
                session.call("back.crash")
            until(node, "exits_total", "exit", "back")  # before its session ends: then its end would be asked for
        with node.session("three"), node.session("four"), pytest.raises(CompositionRefused):
            node.session("five", timeout_s=0.1)
        with node.session("six") as session, pytest.raises(DeadlineExceeded):
            session.with_timeout(0.05).call("back.sleep", 0.3)
        after = numbers(node)
        # whatever ended has not taken its numbers along
        assert after["calls_made_total", "front"] == 50 and after["calls_received_total", "back"] >= 50
        assert after["exits_total", "exit", "back"] == 1
        assert after["compositions_total", "refused"] == 1
        assert after["exits_total", "stopped", "back"] >= 1
        assert after["decisions_total", "refuse"] >= 1
        assert after["launches_total", "back"] >= 3 and after["start_duration_seconds_count", "back"] >= 3
        falls = {name for name in after if name[0].endswith(("_total", "_count")) and after[name] < during.get(name, 0)}
        assert not falls


def test_the_command_line_tells_the_same_in_both_formats(app: Path, tmp_path: Path) -> None:
    with background(tmp_path, "run", str(app)) as node:
        node.wait_for("is ready")
        plain = command(tmp_path, "metrics", "counted")
        strict = command(tmp_path, "metrics", "--openmetrics")
        as_json = command(tmp_path, "metrics", "--json")
        assert plain.returncode == strict.returncode == as_json.returncode == 0, plain.stderr
        assert flat(plain.stdout)["node_info", "counted", *version()] == 1
        assert any(family.name == "shardwright_shards" for family in parse_openmetrics(strict.stdout))
        assert json.loads(as_json.stdout)["content_type"].startswith("text/plain")
        assert node.end(signal.SIGTERM) == 0


def version() -> tuple[str, str]:
    import platform
    from importlib.metadata import version as of

    return platform.python_version(), of("shardwright")
