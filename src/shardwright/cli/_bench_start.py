"""``bench start``: from nothing to a shard's first answer, and what idle shards take, beside a plain fork of the same parent.

The cases take turns, so that what else the machine does meets them alike; medians are told.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from shardwright.node import Node, container_trial, examine_machine, start

RUNTIMES = ("runc", "crun")
LOADED = ("grpc", "numpy")  # what makes a template heavy, as far as it is installed
_MIB = 2**20
_AT_REST_S = 2.0
_SETTLE_S = 0.08  # between two starts, so that the end of one is not measured in the next
_MANIFEST = """
[app]
name = "bench-start-{backend}"
[components.heavy]
code = "heavy"
isolation = "{backend}"
scope = "session"
warm = {{ min = 0, max = 0 }}
"""
_HEAVY = """
{imports}

def ping():
    return 1
"""
_FORKER = """
import gc, os, sys, time, warnings
import shardwright.guest.__main__
{imports}
gc.collect()
gc.freeze()
warnings.simplefilter("ignore", DeprecationWarning)
for _ in sys.stdin:
    read_end, write_end = os.pipe()
    begun = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os.write(write_end, b"+")
        os._exit(0)
    os.read(read_end, 1)
    print(time.perf_counter() - begun, flush=True)
    os.waitpid(pid, 0)
    os.close(read_end)
    os.close(write_end)
"""


def backends() -> tuple[str, ...]:
    """Those that this machine permits, and that start shards from templates."""
    found = [each for each in examine_machine({}).findings if each.name == "isolation namespace"]
    return ("process", "namespace") if all(each.present for each in found) else ("process",)


def measure(rounds: int, shards: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """A flat record for each backend. Times in milliseconds, memory in MiB for each shard."""
    there = [name for name in LOADED if importlib.util.find_spec(name) is not None]
    imports = "\n".join(f"import {name}" for name in there)
    plain: list[float] = []
    fresh: list[float] = []
    begun: dict[str, list[float]] = {}
    answered: dict[str, list[float]] = {}
    plain_in_a_row: list[float] = []
    in_a_row: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        forker = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", _FORKER.format(imports=imports)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        nodes: dict[str, Node] = {}
        for backend in backends():
            app = Path(folder) / backend
            app.mkdir()
            (app / "shardwright.toml").write_text(_MANIFEST.format(backend=backend))
            (app / "heavy.py").write_text(_HEAVY.format(imports=imports))
            nodes[backend] = stack.enter_context(start(app, state=Path(folder) / f"{backend}-state"))
        for number in range(rounds):
            plain.append(_forked(forker))
            if number % 5 == 0:
                fresh.append(_fresh(imports))
            for backend, node in nodes.items():
                before = time.perf_counter()
                with node.session(f"round-{number}") as session:
                    begun.setdefault(backend, []).append(time.perf_counter() - before)
                    session.call("heavy.ping")
                    answered.setdefault(backend, []).append(time.perf_counter() - before)
                time.sleep(_SETTLE_S)
        for number in range(rounds):  # as fast as they go: nothing was forked ahead
            plain_in_a_row.append(_forked(forker))
            for backend, node in nodes.items():
                with node.session(f"first-{number}") as session:  # takes what was forked ahead
                    session.call("heavy.ping")
                before = time.perf_counter()
                with node.session(f"second-{number}") as session:
                    session.call("heavy.ping")
                    in_a_row.setdefault(backend, []).append(time.perf_counter() - before)
        say(f"{rounds} starts of each; now {shards} idle shards of each")
        return (
            [
                {
                    "case": "start",
                    "backend": backend,
                    "loaded": ", ".join(there),
                    "fork_p50_ms": _ms(begun[backend]),
                    "ready_p50_ms": _ms(answered[backend]),
                    "ready_min_ms": round(min(answered[backend]) * 1e3, 3),
                    "plain_fork_p50_ms": _ms(plain),
                    "fresh_interpreter_p50_ms": _ms(fresh),
                    "ratio_to_plain_fork": round(median(answered[backend]) / median(plain), 2),
                    "rounds": rounds,
                    **_memory(node, shards),
                }
                for backend, node in nodes.items()
            ]
            + [
                {
                    "case": "start in a row",
                    "backend": backend,
                    "loaded": ", ".join(there),
                    "ready_p50_ms": _ms(in_a_row[backend]),
                    "ready_min_ms": round(min(in_a_row[backend]) * 1e3, 3),
                    "plain_fork_p50_ms": _ms(plain_in_a_row),
                    "ratio_to_plain_fork": round(median(in_a_row[backend]) / median(plain_in_a_row), 2),
                    "rounds": rounds,
                }
                for backend in nodes
            ]
            + measure_containers(max(3, rounds // 3))
        )


def measure_containers(rounds: int) -> list[dict[str, Any]]:
    """A flat record for each OCI runtime that is there: the first word of a bare interpreter, and the same by hand."""
    records = []
    for runtime in RUNTIMES:
        found = container_trial(runtime, rounds)
        if found is not None:
            ours, hand = median(found["ours_ms"]), median(found["by_hand_ms"])
            records.append(
                {
                    "case": "container",
                    "backend": f"oci:{runtime}",
                    "ready_p50_ms": round(ours, 3),
                    "ready_min_ms": round(min(found["ours_ms"]), 3),
                    "by_hand_p50_ms": round(hand, 3),
                    "ratio_to_by_hand": round(ours / hand, 3),
                    "rounds": rounds,
                }
            )
    return records


def _ms(values: list[float]) -> float:
    return round(median(values) * 1e3, 3)


def _forked(forker: subprocess.Popen[str]) -> float:
    assert forker.stdin is not None and forker.stdout is not None
    forker.stdin.write("+\n")
    forker.stdin.flush()
    return float(forker.stdout.readline())


def _fresh(imports: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"{imports}\n"], check=True)
    return time.perf_counter() - begun


def _memory(node: Node, shards: int) -> dict[str, Any]:
    """What each of so many idle shards takes: its own pages, its share of all, and the drop of what is available."""
    if not shards:
        return {"shards": 0}
    time.sleep(_AT_REST_S)  # what others of these took before is given back by now
    with ExitStack() as stack:
        before = psutil.virtual_memory().available
        for number in range(shards):
            stack.enter_context(node.session(f"idle-{number}")).call("heavy.ping")
        time.sleep(_AT_REST_S)  # they come to rest
        drop = before - psutil.virtual_memory().available
        pids = [status.pid for status in node.shards() if status.pid]
        sums = [_rollup(pid) for pid in pids]
        return {
            "shards": len(pids),
            "private_mib": round(sum(each.get("Private_Clean", 0) + each.get("Private_Dirty", 0) for each in sums)
                                 / len(sums) / 1024, 2),
            "pss_mib": round(sum(each.get("Pss", 0) for each in sums) / len(sums) / 1024, 2),
            "mem_available_drop_mib": round(drop / len(sums) / _MIB, 2),
        }  # fmt: skip


def _rollup(pid: int) -> dict[str, int]:
    """Sums over all mappings of a process, in KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.partition(":")[0]: int(line.split()[1]) for line in lines}
