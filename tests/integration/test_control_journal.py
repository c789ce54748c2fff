"""What a node decided, and from what: every kind of decision is in the journal with its reason and its inputs."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from limits_here import limits_permitted
from shardwright.errors import ShardwrightError
from shardwright.node import Node, Options, Running
from waiting import eventually

MANIFEST = """
[app]
name = "decided"
[components.top]
code = "top"
resources = { cpu = 0.2 }
limits = { cpu = 1.0 }
usage = { priority = 90, latency_slo = "20ms" }
[components.below]
code = "below"
resources = { cpu = 0.1 }
limits = { cpu = 2.0 }
usage = { priority = 5 }
[components.game]
code = "game"
scope = "session"
reuse = true
resources = { memory = "32MiB" }
warm = { min = 0, max = 1 }
usage = { max_instances = 3 }
[policy]
tick = "50ms"
pool = "demand"
cost = { cpu_hour = 0.04, gib_hour = 0.005, cold_start = 0.00002 }
"""
CODE = """
import time

def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
"""
DECISIONS = {"launch", "lease", "resize", "move", "refuse", "stop"}


def test_every_decision_has_its_reason_and_inputs(tmp_path: Path, record_exercised: Callable[[str, int], None]) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.fail("moves between cores need two of them")
    app = tmp_path / "app"
    app.mkdir()
    (app / "shardwright.toml").write_text(MANIFEST)
    for name in ("top", "below", "game"):
        (app / f"{name}.py").write_text(CODE)
    with Node(Running(app, Options(state=tmp_path / "state", api=False))) as node:
        core = node.running.core

        def rows(kind: str) -> list[object]:
            return list(core.journal.tail(10_000, kind=kind))

        for number in range(4):
            with node.session(f"s{number}") as session:
                session.call("game.spin", 0)
                session.call("top.spin", 0)
        with node.session("three") as session:
            opened = [node.session(f"more-{number}") for number in range(2)]
            for each in opened:
                each.__enter__()
            with pytest.raises(ShardwrightError), node.session("one-too-many", timeout_s=0.2):
                pass
            for each in opened:
                each.__exit__(None, None, None)
            busy = [threading.Thread(target=session.call, args=("below.spin", 3.0)) for _ in range(2)]
            busy.append(threading.Thread(target=session.call, args=("top.spin", 3.0)))
            for thread in busy:
                thread.start()
            moved = eventually(lambda: bool(rows("move")), 10)
            pid = next(port.pid for port in core.ports().values() if port.component == "below")
            kept = os.sched_getaffinity(pid) != os.sched_getaffinity(0)
            for thread in busy:
                thread.join()
            assert moved and kept, "nobody left a core to the highest priority"
            with pytest.raises(ShardwrightError):
                node.resize("top", guarantee={"cpu": 1000.0})
            if limits_permitted():
                node.resize("top", guarantee={"cpu": 0.3})
        assert eventually(lambda: any(row.kind == "stop" for row in core.journal.tail(10_000)), 20)
        decided = [row for row in core.journal.tail(10_000) if row.kind in DECISIONS]
    kept = json.loads((core.control._file.with_name("pool.json")).read_text())
    assert kept["game"]["lain"], "what was learnt of demand is kept for the next node"
    missing = DECISIONS - {row.kind for row in decided} - (set() if limits_permitted() else {"resize"})
    assert not missing, f"nothing was decided of {missing}"
    for row in decided:
        assert row.reason, row
        assert row.inputs, f"{row.kind}: {row.reason} was decided from nothing"
    starts = [row for row in decided if row.kind == "launch" and "worth their price" in row.reason]
    assert starts and all("cold_price_s" in row.inputs for row in starts)
    record_exercised("decisions with reason and inputs", len(decided))
