"""``bench compose``: what a session waits for until it has its shards, and until the first of them has answered.

Warm, where a shard of each component waits (with time between sessions, and in a row); from templates; and fifty at once.
Beside each, in turns, its floor: as
many processes woken by a byte and answering by one where shards are warm, as many plain forks of a parent with the same
modules where they are not. Medians are told.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from shardwright.cli._bench_start import backends
from shardwright.node import Node, start

AT_ONCE = 50
SHARDS = (1, 5)
_SETTLE_S = 0.08
_FLOOR = """
import gc, os, sys, time, warnings
import shardwright.guest.__main__
gc.collect()
gc.freeze()
warnings.simplefilter("ignore", DeprecationWarning)
kept = []
for line in sys.stdin:
    kind, count = line.split()
    while kind == "wake" and len(kept) < int(count):
        to_read, to_write = os.pipe()
        from_read, from_write = os.pipe()
        if os.fork() == 0:
            os.close(to_write)
            while os.read(to_read, 1):
                os.write(from_write, b"+")
            os._exit(0)
        os.close(to_read)
        kept.append((to_write, from_read))
    begun = time.perf_counter()
    if kind == "wake":
        for to_write, _ in kept[: int(count)]:
            os.write(to_write, b"+")
        for _, from_read in kept[: int(count)]:
            os.read(from_read, 1)
        print(time.perf_counter() - begun, flush=True)
        continue
    reader, writer = os.pipe()
    pids = []
    for _ in range(int(count)):
        pid = os.fork()
        if pid == 0:
            os.write(writer, b"+")
            os._exit(0)
        pids.append(pid)
    got = 0
    while got < int(count):
        got += len(os.read(reader, 64))
    print(time.perf_counter() - begun, flush=True)
    for pid in pids:
        os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)
"""


def measure(rounds: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """A flat record for each backend, number of shards, and state of the pool. Times in microseconds."""
    records: list[dict[str, Any]] = []
    floor = subprocess.Popen(
        [sys.executable, "-c", _FLOOR], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    with floor, tempfile.TemporaryDirectory() as folder:
        assert floor.stdin is not None
        for backend in backends():
            for shards in SHARDS:
                for warm in (True, False):
                    app = _application(Path(folder) / f"{backend}-{shards}-{warm}", backend, shards, warm)
                    with start(app, state=Path(folder) / f"{backend}-{shards}-{warm}-state") as node:
                        records.append(_composed(node, floor, backend, shards, warm, rounds))
                        if warm:
                            records.append(_in_a_row(node, backend, shards, max(1, rounds // 2)))
                        if shards == 1 and not warm:
                            records.append(_at_once(node, floor, backend, max(min(3, rounds), rounds // 20)))
            say(f"{backend}: measured")
        floor.stdin.close()
    return records


def _application(folder: Path, backend: str, shards: int, warm: bool) -> Path:
    folder.mkdir()
    lines = ["[app]", f'name = "bench-compose-{backend}"']
    for number in range(shards):
        lines += [
            f"[components.c{number}]", f'code = "c{number}"', f'isolation = "{backend}"', 'scope = "session"',
            "warm = { min = 4, max = 4 }" if warm else "warm = { min = 0, max = 0 }",
        ]  # fmt: skip
        (folder / f"c{number}.py").write_text("def ping():\n    return 1\n")
    (folder / "shardwright.toml").write_text("\n".join(lines))
    return folder


def _composed(
    node: Node, floor: subprocess.Popen[str], backend: str, shards: int, warm: bool, rounds: int
) -> dict[str, Any]:
    composed: list[float] = []
    answered: list[float] = []
    called: list[float] = []
    floors: list[float] = []
    for number in range(rounds):
        floors.append(_floor(floor, "wake" if warm else "fork", shards))
        begun_s = time.perf_counter()
        with node.session(f"round-{number}") as session:
            composed.append(time.perf_counter() - begun_s)
            session.call("c0.ping")
            answered.append(time.perf_counter() - begun_s)
            called.append(answered[-1] - composed[-1])
        time.sleep(
            _SETTLE_S * shards
        )  # used shards end, others take their place, and the next session is composed ahead
    return {
        "case": "compose",
        "backend": backend,
        "shards": shards,
        "warm": warm,
        "p50_us": _us(composed),
        "min_us": round(min(composed) * 1e6, 1),
        "answered_p50_us": _us(answered),
        "first_call_p50_us": _us(called),
        "floor_p50_us": _us(floors),
        "rounds": rounds,
    }


def _in_a_row(node: Node, backend: str, shards: int, rounds: int) -> dict[str, Any]:
    """Sessions of warm shards as fast as they go: none was composed ahead."""
    composed: list[float] = []
    answered: list[float] = []
    for number in range(rounds):
        with node.session(f"first-{number}"):  # takes what was composed ahead
            begun_s = time.perf_counter()
            with node.session(f"second-{number}") as session:
                composed.append(time.perf_counter() - begun_s)
                session.call("c0.ping")
                answered.append(time.perf_counter() - begun_s)
        time.sleep(_SETTLE_S * shards)
    return {
        "case": "compose in a row",
        "backend": backend,
        "shards": shards,
        "warm": True,
        "p50_us": _us(composed),
        "min_us": round(min(composed) * 1e6, 1),
        "answered_p50_us": _us(answered),
        "rounds": rounds,
    }


def _at_once(node: Node, floor: subprocess.Popen[str], backend: str, rounds: int) -> dict[str, Any]:
    def one(name: str) -> None:
        with node.session(name) as session:
            session.call("c0.ping")
            answered.append(time.perf_counter())

    taken: list[float] = []
    floors: list[float] = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number in range(rounds):
            floors.append(_floor(floor, "fork", AT_ONCE))
            answered: list[float] = []
            begun_s = time.perf_counter()
            list(pool.map(one, [f"crowd-{number}-{which}" for which in range(AT_ONCE)]))
            taken.append(max(answered) - begun_s)
            time.sleep(1.0)
    return {
        "case": "at once",
        "backend": backend,
        "shards": AT_ONCE,
        "warm": False,
        "p50_us": _us(taken),
        "min_us": round(min(taken) * 1e6, 1),
        "answered_p50_us": _us(taken),
        "floor_p50_us": _us(floors),
        "rounds": rounds,
    }


def _floor(floor: subprocess.Popen[str], kind: str, count: int) -> float:
    assert floor.stdin is not None and floor.stdout is not None
    floor.stdin.write(f"{kind} {count}\n")
    floor.stdin.flush()
    return float(floor.stdout.readline())


def _us(values: list[float]) -> float:
    return round(median(values) * 1e6, 1)
