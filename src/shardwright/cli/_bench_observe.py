"""``bench live``, what looking at everybody costs: CPU time of the node and of its keeper for one round of the controller.

Rounds of a real node over real shards that wait, twenty a second beside its own one, at two numbers of shards: of the slope
follows what 500 would take of a core.
"""

from __future__ import annotations

import textwrap
import time
from pathlib import Path
from typing import Any

import psutil

from shardwright.cli._bench_load import cpu_s
from shardwright.node import Node, Options, Running

SHARDS = (5, 100)
ASKED = 500
PACE_S = 0.05
LEAST_ROUNDS = 60  # a millisecond of something else would be a tenth of what few of them cost
_MANIFEST = """
    [app]
    name = "bench-observe"
    [components.held]
    code = "held"
    state = "none"
    resources = {{ cpu = 0.01, memory = "16MiB" }}
    scale = {{ min = {count}, max = {count} }}
"""


def observing(folder: Path, rounds: int) -> list[dict[str, Any]]:
    """A record for rounds in which nothing has to be decided, and one in which limits are decided each time."""
    records = []
    rounds = max(rounds, LEAST_ROUNDS)
    for case, recorded in (("observing, calm", False), ("observing, limits decided in every round", True)):
        costs = {count: _costs(folder / f"observed-{count}-{recorded:d}", count, rounds, recorded) for count in SHARDS}
        few, many = (costs[count] for count in SHARDS)
        slopes = [(b - a) / (SHARDS[1] - SHARDS[0]) for a, b in zip(few, many, strict=True)]
        whole = [a + slope * (ASKED - SHARDS[0]) for a, slope in zip(few, slopes, strict=True)]
        records.append({
            "case": case,
            "rounds": rounds,
            "node_us_a_shard": round(slopes[0] * 1e6, 2),
            "keeper_us_a_shard": round(slopes[1] * 1e6, 2),
            "node_ms_at_most": round(many[0] * 1e3, 3),
            "keeper_ms_at_most": round(many[1] * 1e3, 3),
            "core_percent_of_500": round(sum(whole) * 100, 2),
        })  # fmt: skip
    return records


def _costs(folder: Path, count: int, rounds: int, recorded: bool) -> tuple[float, float]:
    """CPU seconds of one round: of the node, of its keeper."""
    folder.mkdir()
    (folder / "shardwright.toml").write_text(textwrap.dedent(_MANIFEST).format(count=count), encoding="utf-8")
    (folder / "held.py").write_text("def held():\n    return 1\n", encoding="utf-8")
    options = Options(state=folder / "state", api=False, record=folder / "recorded" if recorded else None)
    with Node(Running(folder, options)) as node:
        control = node.running.core.control
        guard = psutil.Process(node.running.keeper_pid)
        keepers = [guard.pid, *(child.pid for child in guard.children())]  # a guard above the keeper
        end_s = time.monotonic() + 60
        while sum(shard.status == "ready" for shard in node.shards()) < count and time.monotonic() < end_s:
            time.sleep(0.05)
        for _ in range(5):
            node.running.submit(control.tick()).result(30)
        time.sleep(1.0)  # what starting left behind
        before = time.process_time(), sum(map(cpu_s, keepers))
        for _ in range(rounds):
            time.sleep(PACE_S)
            node.running.submit(control.tick()).result(30)
        return (time.process_time() - before[0]) / rounds, (sum(map(cpu_s, keepers)) - before[1]) / rounds
