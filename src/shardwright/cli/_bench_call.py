"""``bench call``: a call across a cut edge, beside the floor of the machine and other ways to ask another process.

All cases are measured in turn, round after round, so that what else the machine does meets them alike; each record tells the
median of the rounds, and how sure that is (bootstrap over the rounds' medians).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from msgspec import Struct, field

from shardwright.cli._bench_peers import LOOP, PEERS
from shardwright.node import Node, Session, start

SIZES = (64, 4096, 65536, 2**20)
PLACEMENTS = ("same", "split", "free")
GAP_US = 1000
IN_FLIGHT = 64
CALLERS = 200
ARRAY_BYTES = 2**20
IDLE_CHANNELS = 1000
_RESAMPLES = 400
_MANIFEST = """
    [app]
    name = "bench-call"
    [components.near]
    code = "near"
    [components.far]
    code = "far"
    [components.kin]
    code = "kin"
    [[edges]]
    from = "near"
    to = "kin"
    codec = "pickle"
"""
_FAR = """
    def echo(payload):
        return payload

    def where():
        import os
        return os.getpid()

    def total(values):
        return float(values.sum())
"""
_NEAR = """
    import threading
    import time
    import far
    import kin

    def calls(who, size, gap_s, for_s):
        echo = far.echo if who == "far" else kin.echo
        payload, clock, taken = bytes(size), time.perf_counter_ns, []
        for _ in range(20):
            echo(payload)
        end = time.monotonic() + for_s
        while not taken or (time.monotonic() < end and len(taken) < 20000):
            if gap_s:
                time.sleep(gap_s)
            begun = clock()
            echo(payload)
            taken.append(clock() - begun)
        return taken

    def together(threads, turn, for_s):
        counts, ready, ends, ended = [0] * threads, threading.Barrier(threads + 1), [], []

        def one(number):
            try:
                ready.wait()
                while not ends:
                    counts[number] += turn()
            except BaseException as error:
                ended.append(error)

        began = [threading.Thread(target=one, args=(number,)) for number in range(threads)]
        for thread in began:
            thread.start()
        ready.wait()
        while not all(counts) and not ended:  # what counts is how they go on, not how they begin
            time.sleep(0.01)
        before, start = list(counts), time.monotonic()
        time.sleep(for_s)
        after, passed = list(counts), time.monotonic() - start
        ends.append(True)
        for thread in began:
            thread.join()
        if ended:
            raise ended[0]
        return [late - early for early, late in zip(before, after)], passed

    def many(who, size, threads, for_s):
        echo = far.echo if who == "far" else kin.echo
        payload, clock, taken = bytes(size), time.perf_counter_ns, []

        def turn():
            for _ in range(7):  # to look at the clock at every call would be a tenth of what is measured
                echo(payload)
            begun = clock()
            echo(payload)
            taken.append(clock() - begun)
            return 8

        counts, passed = together(threads, turn, for_s)
        return taken, sum(counts) / passed

    def arrays(who, size, for_s):
        import numpy
        total = far.total if who == "far" else kin.total
        values, clock, taken = numpy.ones(size // 8), time.perf_counter_ns, []
        for _ in range(5):
            total(values)
        end = time.monotonic() + for_s
        while time.monotonic() < end:
            begun = clock()
            total(values)
            taken.append(clock() - begun)
        return taken

    def shares(who, size, threads, for_s):
        echo = far.echo if who == "far" else kin.echo
        payload = bytes(size)

        def turn():
            echo(payload)
            return 1

        return together(threads, turn, for_s)
"""


class Run(Struct):
    """One row of the table: a case under one condition, with what each round found."""

    case: str
    trust: str
    placement: str
    size: int
    gap_us: int
    in_flight: int
    ask: Callable[[Run, float], tuple[list[int], float]]
    of: dict[str, Any] = field(default_factory=dict)  # what this case alone tells, by the last round
    taken_ns: list[list[int]] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)

    @property
    def cpus(self) -> list[list[int]]:
        """Of asker and answerer."""
        there = sorted(os.sched_getaffinity(0))
        if self.placement == "free":
            return [there, there]
        return [there[:1], there[:1] if self.placement == "same" else there[-1:]]


def measure(
    seconds: float, rounds: int, sizes: Sequence[int], peers: str, told: Callable[[str], None]
) -> list[dict[str, Any]]:
    """A record for each case and condition. ``peers``: the interpreter that grpc and ray are looked for in; empty for ours."""
    with tempfile.TemporaryDirectory(prefix="shardwright-bench-") as folder, ExitStack() as stack:
        runs: list[Run] = []
        for name in ("floor", "ring", "idle", *PEERS):
            try:
                runs += _runs_of_pair(name, sizes, stack.enter_context(_pair(name, peers or sys.executable)))
            except EOFError as missing:
                told(f"{name}: not measured: {missing}")
        node = stack.enter_context(start(_application(Path(folder)), state=Path(folder) / "state"))
        runs += _runs_of_calls(node, sizes)
        for number in range(rounds):
            for run in (*runs[number % len(runs) :], *runs[: number % len(runs)]):
                taken, per_second = run.ask(run, seconds)
                run.taken_ns.append(taken)
                run.per_second.append(per_second)
            told(f"round {number + 1} of {rounds}")
        transport = next(shard.transport for shard in node.shards() if shard.component == "near")
    return [_record(run, runs, transport) for run in runs]


def _runs_of_idle(process: subprocess.Popen[str]) -> list[Run]:
    """What channels cost that nobody uses: the processor's time of a process that has both ends of all of them."""

    def ask(run: Run, seconds: float) -> tuple[list[int], float]:
        spent_ns, passed_ns = _told(process, {"channels": IDLE_CHANNELS, "for_s": max(seconds, 1.0)})
        run.of = {"channels": IDLE_CHANNELS, "core_percent": round(100 * spent_ns / passed_ns, 3)}
        return [spent_ns], 0.0

    return [Run("idle", "", "free", 0, 0, 0, ask)]


def _told(process: subprocess.Popen[str], asked: dict[str, Any]) -> list[int]:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(asked) + "\n")
    process.stdin.flush()
    found: list[int] = json.loads(process.stdout.readline())
    return found


def _conditions(sizes: Sequence[int], smallest: bool) -> Iterator[tuple[str, int, int]]:
    for placement in PLACEMENTS:
        for size in sizes[:1] if smallest else sizes:
            yield placement, size, 0
        yield placement, sizes[0], GAP_US


def _runs_of_pair(name: str, sizes: Sequence[int], process: subprocess.Popen[str]) -> list[Run]:
    if name == "idle":
        return _runs_of_idle(process)

    def ask(run: Run, seconds: float) -> tuple[list[int], float]:
        taken = _told(process, {"size": run.size, "gap_us": run.gap_us, "for_s": seconds, "cpus": run.cpus})
        return taken, _rate(taken)

    only_small = name == "floor"  # it is the floor of waking somebody, whatever was written before
    placements = _conditions(sizes, only_small)
    return [
        Run(name, "", placement, size, gap_us, 1, ask)
        for placement, size, gap_us in placements
        if name not in ("plain", "ray") or placement == "free"
    ]


def _runs_of_calls(node: Node, sizes: Sequence[int]) -> list[Run]:
    session = node.session("bench")
    session.call("near.calls", "far", 64, 0.0, 0.05)  # binds
    session.call("near.calls", "kin", 64, 0.0, 0.05)
    pids = {str(shard.component): shard.pid for shard in node.shards()}
    runs = []
    for who, trust in (("kin", "same"), ("far", "across")):

        def ask(run: Run, seconds: float, who: str = who) -> tuple[list[int], float]:
            for component, cpus in zip(("near", who), run.cpus, strict=True):
                _pin(pids[component], cpus)
            if run.in_flight > 1:
                seconds = max(seconds, 0.5)  # so that each has many turns
                found: tuple[list[int], float] = session.call("near.many", who, run.size, run.in_flight, seconds)
                return found
            taken: list[int] = session.call("near.calls", who, run.size, run.gap_us / 1e6, seconds)
            return taken, _rate(taken)

        runs += [Run("call", trust, *condition, 1, ask) for condition in _conditions(sizes, smallest=False)]
        runs += [
            Run("call", trust, placement, sizes[0], 0, in_flight, ask)
            for placement in ("free", "split")
            for in_flight in (8, IN_FLIGHT)
        ]
        runs += _runs_of_arrays(session, who, trust, pids)
    return runs


def _runs_of_arrays(session: Session, who: str, trust: str, pids: dict[str, int]) -> list[Run]:
    """Arrays that the callee reads, and many callers of one shard."""

    def pin(run: Run) -> None:
        for component, cpus in zip(("near", who), run.cpus, strict=True):
            _pin(pids[component], cpus)

    def array(run: Run, seconds: float) -> tuple[list[int], float]:
        pin(run)
        taken: list[int] = session.call("near.arrays", who, ARRAY_BYTES, seconds)
        run.of = {"gb_per_s": round(ARRAY_BYTES / median(taken), 2)}
        return taken, _rate(taken)

    def shares(run: Run, seconds: float) -> tuple[list[int], float]:
        pin(run)
        seconds = max(seconds, 1.0)  # so that each has hundreds of turns
        counts, passed = session.call("near.shares", who, run.size, CALLERS, seconds)
        run.of = {"max_over_min": round(max(counts) / max(1, min(counts)), 2)}
        per_second = sum(counts) / passed
        return [round(1e9 * CALLERS / per_second)], per_second

    arrays = [Run("array", trust, placement, ARRAY_BYTES, 0, 1, array) for placement in PLACEMENTS]
    return [*arrays, Run("callers", trust, "free", 64, 0, CALLERS, shares)]


def _rate(taken_ns: list[int]) -> float:
    return 1e9 * len(taken_ns) / sum(taken_ns)


def _pin(pid: int, cpus: list[int]) -> None:
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            os.sched_setaffinity(int(task), cpus)
        except ProcessLookupError:
            pass  # a thread that ended just now


@contextmanager
def _pair(name: str, peers: str) -> Iterator[subprocess.Popen[str]]:
    """The process that asks, ready. Raises EOFError with its last words when it could not begin."""
    if name in ("floor", "ring", "idle"):
        command = [sys.executable, "-m", "shardwright.node._ring_pairs", name]
    else:
        command = [peers if name in ("grpc", "ray") else sys.executable, "-c", LOOP + PEERS[name]]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdin is not None and process.stdout is not None and process.stderr is not None
            if process.stdout.readline() != "ready\n":
                words = process.stderr.read().strip().splitlines()
                raise EOFError(words[-1] if words else "it ended")
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _application(folder: Path) -> Path:
    app = folder / "app"
    app.mkdir()
    for name, text in (("shardwright.toml", _MANIFEST), ("near.py", _NEAR), ("far.py", _FAR), ("kin.py", _FAR)):
        (app / name).write_text(textwrap.dedent(text), encoding="utf-8")
    return app


def _record(run: Run, runs: list[Run], transport: str) -> dict[str, Any]:
    floor = next((r for r in runs if (r.case, r.placement, r.gap_us) == ("floor", run.placement, run.gap_us)), None)
    middles = [median(taken) / 1e3 for taken in run.taken_ns]
    everything = sorted(value for taken in run.taken_ns for value in taken)
    low, high = _interval(middles)
    return {
        "case": run.case,
        "trust": run.trust,
        "transport": transport if run.case == "call" else "",
        "placement": run.placement,
        "size": run.size,
        "in_flight": run.in_flight,
        "gap_us": run.gap_us,
        "p50_us": round(median(middles), 2),
        "p50_low_us": round(low, 2),
        "p50_high_us": round(high, 2),
        "p99_us": round(everything[len(everything) * 99 // 100] / 1e3, 2),
        "per_second": round(median(run.per_second)),
        "ratio_to_floor": None if floor is None or run.case in ("array", "callers", "idle") else _ratio(run, floor),
        **{f"times_faster_than_{name}": _times_faster(run, runs, name) for name in ("grpc", "ray") if run.case == "call"},
        **run.of,
        "samples": len(everything),
        "rounds_p50_us": [round(middle, 2) for middle in middles],
    }  # fmt: skip


def _ratio(run: Run, other: Run) -> float:
    """How much longer it takes, by the medians of each round."""
    return round(median(median(a) / median(b) for a, b in zip(run.taken_ns, other.taken_ns, strict=True)), 2)


def _times_faster(run: Run, runs: list[Run], name: str) -> float | None:
    condition = (name, run.placement, run.size, run.gap_us, run.in_flight)
    other = next((r for r in runs if (r.case, r.placement, r.size, r.gap_us, r.in_flight) == condition), None)
    return None if other is None else _ratio(other, run)


def _interval(middles: list[float]) -> tuple[float, float]:
    """Where the median of the rounds lies with 95 %: percentile bootstrap (Efron 1979)."""
    if len(middles) < 2:
        return middles[0], middles[0]
    chance = random.Random(0)
    found = [median(chance.choices(middles, k=len(middles))) for _ in range(_RESAMPLES)]
    cuts = quantiles(found, n=40)
    return cuts[0], cuts[-1]
