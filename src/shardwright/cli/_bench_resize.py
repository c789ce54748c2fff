"""``bench resize``: how long a limit of a running shard takes to change, and whether what runs obeys the new one.

CPU, block I/O and the network by a trial that calls what the keeper calls; memory by a node, since what counts there is what
callers, neighbours and the journal see of a shard that takes too much.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from shardwright.errors import ShardwrightError
from shardwright.node import Node, resize_trial, start

MEMORY_MIB = (100, 1500)
_PATIENCE_S = 10.0
_MANIFEST = """
[app]
name = "bench-resize"
[components.greedy]
code = "greedy"
scope = "session"
limits = { memory = "4GiB", cpu = 1.0 }
warm = { min = 0, max = 0 }
[components.neighbour]
code = "neighbour"
limits = { memory = "256MiB", cpu = 1.0 }
state = "memory"
"""
_GREEDY = """
import sys

KEPT = []

def eat(mebibytes):
    print(f"about to take {mebibytes} MiB", flush=True)
    for _ in range(mebibytes):
        KEPT.append(b"x" * 2**20)
    return len(KEPT)
"""
_NEIGHBOUR = """
COUNT = [0]

def count():
    COUNT[0] += 1
    return COUNT[0]
"""


def measure(rounds: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """A flat record for each resource and amount. ``error`` is by how much what was measured differs from what was asked."""
    records: list[dict[str, Any]] = []
    for resource, found in resize_trial(rounds).items():
        times = [each["apply_us"] for each in found if "apply_us" in each]
        for each in found:
            record: dict[str, Any] = {"case": "limit", "resource": resource}
            if "unmeasured" in each:
                record["unmeasured"] = each["unmeasured"]
            if times:
                record["apply_p50_us"] = round(median(times), 1)
            if "asked" in each:
                record |= {"asked": each["asked"], "measured": round(each["measured"], 3)}
                record["error"] = round(each["measured"] / each["asked"] - 1, 4)
            if "effect_ms" in each:
                record["effect_p50_ms"] = round(each["effect_ms"], 3)
            if len(record) > 3 or "unmeasured" in record or len(found) == 1:
                records.append(record)
    say("what is limited by rate was measured; now memory")
    with tempfile.TemporaryDirectory() as folder:
        app = Path(folder) / "app"
        app.mkdir()
        for name, text in (("shardwright.toml", _MANIFEST), ("greedy.py", _GREEDY), ("neighbour.py", _NEIGHBOUR)):
            (app / name).write_text(text)
        with start(app, state=Path(folder) / "state") as node:
            records += [_memory(node, mebibytes) for mebibytes in MEMORY_MIB]
            records.append(_asked_of_node(node, rounds))
    return records


def _memory(node: Node, mebibytes: int) -> dict[str, Any]:
    """Its ceiling is lowered while it lives; then it takes half as much again."""
    with node.session("beside") as beside, node.session(f"greedy-{mebibytes}") as session:
        before = beside.call("neighbour.count")
        neighbour = {s.pid for s in node.shards() if s.component == "neighbour"}
        session.call("greedy.eat", 1)
        own = f"greedy-{mebibytes}"
        (shard,) = [s.id for s in node.shards() if s.component == "greedy" and own in s.sessions]
        applied = node.resize(shard, ceiling={"memory": f"{mebibytes}MiB"})[shard]
        within = session.call("greedy.eat", mebibytes // 2)
        begun_s = time.perf_counter()
        try:
            session.call("greedy.eat", mebibytes)
            stopped = ""
        except ShardwrightError as error:
            stopped = str(error)
        stopped_s = time.perf_counter() - begun_s
        event = _loss(node, shard)
        return {
            "case": "memory ceiling",
            "resource": "memory",
            "asked": mebibytes * 2**20,
            "reads_back": applied.ceiling.memory_bytes,
            "held_within_mib": within,
            "stopped": "memory ceiling" in stopped,
            "effect_p50_ms": round(stopped_s * 1e3, 1),
            "event": event.get("reason", ""),
            "event_log": event.get("log", ""),
            "neighbour_unharmed": beside.call("neighbour.count") == before + 1
            and {s.pid for s in node.shards() if s.component == "neighbour"} == neighbour,
        }


def _loss(node: Node, shard: str) -> dict[str, str]:
    """What the journal says of its end."""
    end_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end_s:
        for entry in node.running.core.journal.tail(100, kind="loss"):
            if entry.shard == shard:
                return {"reason": entry.reason, **{key: str(value) for key, value in entry.inputs.items()}}
        time.sleep(0.01)
    return {}


def _asked_of_node(node: Node, rounds: int) -> dict[str, Any]:
    """From ``node.resize`` to its answer: asked of the keeper, read back, journalled."""
    taken = []
    with node.session("asked") as session:
        session.call("neighbour.count")
        for number in range(rounds):
            begun_s = time.perf_counter()
            node.resize("neighbour", ceiling={"cpu": (0.5, 0.25)[number % 2]})
            taken.append(time.perf_counter() - begun_s)
    return {
        "case": "node.resize",
        "resource": "cpu",
        "p50_us": round(median(taken) * 1e6, 1),
        "rounds": rounds,
    }
