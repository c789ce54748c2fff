"""``bench live``: a running node's controller under load that does not wait for answers.

Calls are due at fixed times, whatever became of those before; a call's time counts from when it was due, so that a stall
cannot hide by delaying what follows (coordinated omission).
"""

from __future__ import annotations

import math
import tempfile
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from msgspec import Struct, field

from shardwright.cli._bench_observe import observing
from shardwright.cli._bench_others import Others
from shardwright.cli._demo import bundled
from shardwright.errors import ShardwrightError
from shardwright.node import Node, Options, Running
from shardwright.simulation import replay_recording

Call = Callable[[], object]
SLO_S = 0.05
WINDOW_S = 0.5
LOW, HIGH = 0.1, 0.7
SETTLES_S = 2.0  # of an overload, until guarantees have followed; shown with and without

_RATES = {"top": (4, 40.0), "middle": (24, 250.0), "lowest": (24, 400.0)}  # threads, calls a second
_MANIFEST = """
    [app]
    name = "bench-live"
    [components.zero]
    code = "zero"
    state = "none"
    resources = { cpu = 0.01, memory = "16MiB" }
    scale = { min = 0, max = 2 }
    [components.top]
    code = "top"
    resources = { cpu = 0.3, memory = "16MiB" }
    limits = { cpu = 1.0, memory = "96MiB" }
    usage = { priority = 90, latency_slo = "20ms" }
    queue = 64
    [components.middle]
    code = "middle"
    resources = { cpu = 0.1, memory = "16MiB" }
    limits = { cpu = 1.0, memory = "96MiB" }
    usage = { priority = 50 }
    queue = 16
    [components.lowest]
    code = "lowest"
    resources = { cpu = 0.02, memory = "16MiB" }
    limits = { cpu = 1.0, memory = "96MiB" }
    usage = { priority = 5 }
    queue = 8
    [components.ask_top]
    code = "ask_top"
    depends_on = ["top"]
    resources = { cpu = 0.1, memory = "16MiB" }
    limits = { cpu = 1.0, memory = "96MiB" }
    usage = { priority = 90, latency_slo = "20ms" }
    [components.ask_middle]
    code = "ask_middle"
    depends_on = ["middle"]
    resources = { cpu = 0.05, memory = "16MiB" }
    limits = { cpu = 1.0, memory = "96MiB" }
    usage = { priority = 50 }
    [components.ask_lowest]
    code = "ask_lowest"
    depends_on = ["lowest"]
    resources = { cpu = 0.05, memory = "16MiB" }
    limits = { cpu = 1.0, memory = "96MiB" }
    usage = { priority = 5 }
"""
_CODE = """
    import time

    def work(seconds):
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass
        return seconds
"""
# Who offers the calls of an overload: shards of their own, so that no other interpreter is in the way.
_ASKING = """
    import threading, time
    import {name}

    def offer(rate, seconds, threads):
        begin = time.monotonic() + 0.05
        count = max(1, round(rate * seconds))
        times, errors, mutex = [], {{}}, threading.Lock()

        def run(place):
            for number in range(place, count, threads):
                due = begin + number / rate
                wait_s = due - time.monotonic()
                if wait_s > 0:
                    time.sleep(wait_s)
                try:
                    {name}.work(0.005)
                except Exception as error:
                    code = getattr(error, "code", type(error).__name__)
                    with mutex:
                        errors[code] = errors.get(code, 0) + 1
                else:
                    times.append((due, time.monotonic() - due))

        every = [threading.Thread(target=run, args=(place,)) for place in range(threads)]
        for each in every:
            each.start()
        for each in every:
            each.join()
        return times, errors
"""


class Offered(Struct):
    """What became of calls: when each was due and its time from then on; errors by code."""

    times: list[tuple[float, float]] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    said: dict[str, str] = field(default_factory=dict)

    def p(self, share: float, since_s: float = 0.0, until_s: float = math.inf) -> float:
        """A quantile of the times of what was due in between; NaN without any."""
        held = sorted(took for due, took in self.times if since_s <= due < until_s)
        return held[min(len(held) - 1, math.ceil(share * len(held)) - 1)] if held else math.nan


def offer(calls: Sequence[Call], rate: float, seconds: float, into: Offered | None = None) -> Offered:
    """Call so often a second, each of ``calls`` on a thread of its own, in turn; a thread that is late goes on at once."""
    offered = into or Offered()
    begin = time.monotonic() + 0.05
    count = max(1, round(rate * seconds))
    mutex = threading.Lock()

    def run(place: int, call: Call) -> None:
        for number in range(place, count, len(calls)):
            due = begin + number / rate
            wait_s = due - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            try:
                call()
            except ShardwrightError as error:
                with mutex:
                    offered.errors[error.code] += 1
                    offered.said.setdefault(error.code, error.message)
            else:
                offered.times.append((due, time.monotonic() - due))

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return offered


def saturation(calls: Sequence[Call], seconds: float) -> float:
    """Calls a second when each of ``calls`` is made again as soon as it has answered."""
    end = time.monotonic() + seconds
    counts = [0] * len(calls)

    def run(place: int, call: Call) -> None:
        while time.monotonic() < end:
            call()
            counts[place] += 1

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def measure(seconds: float, rounds: int, told: Callable[[str], None]) -> list[dict[str, Any]]:
    """The records of all cases. Raises ShardwrightError when one cannot be run."""
    with tempfile.TemporaryDirectory(prefix="shardwright-bench-") as folder:
        told("the arena, stepping from 10 to 70 % of its saturation")
        records = _step(Path(folder), seconds)
        app = Path(folder) / "app"
        app.mkdir()
        (app / "shardwright.toml").write_text(textwrap.dedent(_MANIFEST), encoding="utf-8")
        for name in ("zero", "top", "middle", "lowest"):
            (app / f"{name}.py").write_text(textwrap.dedent(_CODE), encoding="utf-8")
        for name in _RATES:
            text = textwrap.dedent(_ASKING).format(name=name)
            (app / f"ask_{name}.py").write_text(text, encoding="utf-8")
        with Node(Running(app, Options(state=Path(folder) / "state", api=False))) as node:
            told("from zero instances to the first answer")
            records.append(_from_zero(node, rounds))
            told("three priorities, more work than cores")
            records += _overload(node, seconds)
        told("looking at everybody")
        records += observing(Path(folder), rounds)
    return records


def _step(folder: Path, seconds: float) -> list[dict[str, Any]]:
    # its saturation, of a node of its own: what the controller raised for that must not serve the step
    with Node(Running(bundled(), Options(state=folder / "full-state", api=False))) as node, _players(node) as calls:
        full = saturation(calls, min(3.0, seconds / 3))
        prices = _prices(node)
    recording = folder / "recorded"
    options = Options(state=folder / "arena-state", api=False, record=recording)
    with Node(Running(bundled(), options)) as node, _players(node) as calls:
        calm = offer(calls, LOW * full, seconds / 2)
        core = node.running.core
        last = max((row.sequence for row in core.journal.tail(1)), default=0)
        wall_s, begin_s = time.time(), time.monotonic()
        others = Others.look()
        stepped = offer(calls, HIGH * full, seconds)
        beside = others.since()
        kinds = ("resize", "scale", "move")
        actions = [row for row in core.journal.tail(10_000) if row.sequence > last and row.kind in kinds]
    replayed = replay_recording(recording)
    stepping = {
        "case": f"arena, {LOW:.0%} to {HIGH:.0%} of its saturation",
        "saturation_per_s": round(full, 1),
        "calls": len(stepped.times),
        "errors": sum(stepped.errors.values()),
        "first_action_s": round(actions[0].wall_s - wall_s, 3) if actions else None,
        "actions": len(actions),
        "first_actions": dict(Counter(f"{row.kind} {row.component}" for row in actions if row.wall_s < wall_s + 1.5)),
        "p99_before_ms": round(calm.p(0.99) * 1e3, 2),
        "p99_after_ms": round(stepped.p(0.99, begin_s + 5) * 1e3, 2),
        "slo_ms": SLO_S * 1e3,
        "back_in_slo_s": _back(stepped, begin_s, seconds),
        "replayed_rounds": replayed.rounds,
        "replayed_steps": replayed.limit_steps,
        "replayed_same": replayed.same,
    } | beside
    return [stepping, *prices]


def _prices(node: Node) -> list[dict[str, Any]]:
    """What starts that nobody waits for cost, of the components of which spares are kept: W, beside C, in idle-seconds.

    A spare's own CPU time and memory, as measured; the whole time of its start on one core is the most that W can be.
    """
    cost = node.running.manifest.policy.cost
    took: dict[str, list[float]] = {}
    for row in node.running.core.journal.tail(10_000, kind="ready"):
        if isinstance(start_s := row.inputs.get("start_s"), float):
            took.setdefault(row.component, []).append(start_s)
    records = []
    for component in sorted({shard.component for shard in node.shards() if shard.scope == "session"}):
        spares = [s.usage for s in node.shards() if s.component == component and not s.sessions and s.usage is not None]
        if not spares or component not in took:
            continue
        cpu_s, memory = median(usage.cpu_s for usage in spares), median(usage.memory_bytes for usage in spares)
        second = max(memory / 2**30 * cost.gib_hour / 3600, 1e-18)
        start_s = median(took[component])
        records.append({
            "case": f"arena, price of a hidden start of {component}",
            "spares": len(spares),
            "start_ms": round(start_s * 1e3, 2),
            "cpu_ms": round(cpu_s * 1e3, 2),
            "memory_mib": round(memory / 2**20, 2),
            "w_idle_s": round(cpu_s * cost.cpu_hour / 3600 / second + start_s, 2),
            "w_at_most_idle_s": round(start_s * cost.cpu_hour / 3600 / second + start_s, 2),
            "c_idle_s": round(cost.cold_start / second, 1),
        })  # fmt: skip
    return records


@contextmanager
def _players(node: Node) -> Iterator[list[Call]]:
    """What four players do again and again; they have entered, and everything is bound."""
    with ExitStack() as stack:
        calls: list[Call] = []
        for number in range(4):
            session = stack.enter_context(node.session(f"player-{number}"))
            session.call("game.enter", f"player-{number}", "w1")
            calls.append(partial(session.call, "game.look", f"player-{number}"))
        offer(calls, 20, 0.5)
        yield calls


def _back(offered: Offered, begin_s: float, seconds: float) -> float | None:
    """From when on p99 of every half second was in the objective; None: it was not at the end."""
    for window in reversed(range(int(seconds / WINDOW_S))):
        at = begin_s + window * WINDOW_S
        p99 = offered.p(0.99, at, at + WINDOW_S)
        if p99 == p99 and p99 > SLO_S:
            later = (window + 1) * WINDOW_S
            return later if later < seconds - WINDOW_S else None
    return 0.0


def _from_zero(node: Node, rounds: int) -> dict[str, Any]:
    core = node.running.core
    times: list[float] = []
    for _ in range(rounds):
        with node.session() as session:
            # a session composes all components: what it got of this one is taken out before it is asked
            records = [record for record in core.records() if record.component == "zero" and not record.stopping]
            for record in records:
                node.running.submit(core.control.take_away(record)).result(30)
            if any(record.component == "zero" for record in core.records()):
                continue
            begun = time.monotonic()
            session.call("zero.work", 0)
            times.append(time.monotonic() - begun)
    times.sort()
    return {
        "case": "from zero instances, templated",
        "rounds": len(times),
        "p50_ms": round(median(times) * 1e3, 2) if times else None,
        "p99_ms": round(times[math.ceil(0.99 * len(times)) - 1] * 1e3, 2) if times else None,
        "max_ms": round(times[-1] * 1e3, 2) if times else None,
    }


def _overload(node: Node, seconds: float) -> list[dict[str, Any]]:
    """5 ms of work a call: the highest priority asks for a fifth of a core, the others for more than the machine has."""
    with node.session("calls") as session:

        def ask(name: str, for_s: float) -> None:
            threads, rate = _RATES[name]
            times, errors = session.call(f"ask_{name}.offer", rate, for_s, threads)
            found[name] = Offered([(due, took) for due, took in times], Counter(errors))

        found: dict[str, Offered] = {}
        for name in _RATES:
            ask(name, 0.2)  # everything is bound
        others = Others.look()
        ask("top", seconds)
        beside = [others.since()]
        alone = found["top"]
        others = Others.look()
        begin_s = time.monotonic() + SETTLES_S
        callers = [threading.Thread(target=ask, args=(name, seconds)) for name in _RATES]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        beside.append(others.since())
        moves = len(node.running.core.journal.tail(10_000, kind="move"))
    records = []
    for name, offered in found.items():
        asked = len(offered.times) + sum(offered.errors.values())
        record: dict[str, Any] = {
            "case": f"overload, {name} priority",
            "calls": asked,
            "answered": len(offered.times),
            "shed": sum(offered.errors.values()),
            "errors_by_code": dict(offered.errors),
            "p50_ms": round(offered.p(0.5, begin_s) * 1e3, 2),
            "p99_ms": round(offered.p(0.99, begin_s) * 1e3, 2),
            "p99_with_beginning_ms": round(offered.p(0.99) * 1e3, 2),
        }
        if name == "top":
            record["moves"] = moves
            record["p99_unloaded_ms"] = round(alone.p(0.99) * 1e3, 2)
            record["p99_over_unloaded"] = round(offered.p(0.99, begin_s) / alone.p(0.99), 2)
            record["others_cores_unloaded"] = beside[0]["others_cores"]
            record |= beside[1]
        records.append(record)
    return records
