"""Measures what a call to another shard costs on this machine, by making some: with the parts that real cuts have."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from shardwright.manifest import load as load_manifest
from shardwright.model.profile import CostConstants
from shardwright.node import Options, Running, assumed, cores, host
from shardwright.sharding import cut_functions
from shardwright.sharding import plan as plan_manifest

_CODE = """
import json, statistics, time

def echo(value):
    return value

def timed(value, count):
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        echo(value)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)

def main():
    begun = time.perf_counter()
    echo(None)
    first = time.perf_counter() - begun
    timed(None, 50)
    empty = timed(None, 400)
    small = timed("x" * 1000, 200)
    large = timed("x" * 2**20, 30)
    with open("calibrated.json", "w") as file:
        json.dump([first, empty, small, large], file)
"""
_MANIFEST = '[app]\nname = "calibration"\nmain = "calibrated:main"\n[components.calibrated]\ncode = "calibrated"\n'
_TEXT_BYTES = 2 * 2**20  # there and back


def calibrate(environment: Mapping[str, str]) -> CostConstants:
    """Starts a node with one component and a part of it, for about a second.

    A byte is one of text, which is copied; what encoding of other values takes is measured with each function.
    """
    with tempfile.TemporaryDirectory(prefix="shardwright-calibration-") as folder:
        told = Path(folder, "calibrated.json")
        Path(folder, "calibrated.py").write_text(_CODE.replace('"calibrated.json"', repr(str(told))))
        Path(folder, "shardwright.toml").write_text(_MANIFEST)
        manifest = load_manifest(folder, environment=dict(environment))
        plan = cut_functions(manifest, plan_manifest(manifest), {"calibrated": ["calibrated:echo"]}, shards=1)
        running = Running(folder, Options(environment=environment, state=Path(folder, "state"), plan=plan, api=False))
        try:
            running.run_main()
        finally:
            running.close()
        first_s, empty_s, small_s, text_s = json.loads(told.read_text())
    byte_s = max(0.0, text_s - empty_s) / _TEXT_BYTES
    return replace(
        assumed(),
        round_trip_s=max(empty_s, small_s),
        byte_s=byte_s,
        fork_s=max(first_s, 0.005),
        cores=cores(),
        host=host(),
        at_once=at_once(cores()),
    )


def at_once(processes: int, *, loops: int = 2_000_000, rounds: int = 3) -> float:
    """How much more so many processes that share nothing do together than one does alone.

    The best of ``rounds``: other programs' load is not the machine.
    """
    return max(processes * _spun(1, loops) / _spun(processes, loops) for _ in range(rounds))


def _spun(processes: int, loops: int) -> float:
    begun_s = time.perf_counter()
    source = f"n = 0\nwhile n < {loops}:\n    n += 1\n"
    running = [subprocess.Popen([sys.executable, "-I", "-S", "-c", source]) for _ in range(processes)]
    for process in running:
        process.wait()
    return time.perf_counter() - begun_s
