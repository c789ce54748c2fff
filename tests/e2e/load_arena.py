"""The arena under load: sessions that play at a steady pace. ``python tests/e2e/load_arena.py --seconds 60``.

All sessions enter at once, then play. A call's time counts from the moment at which it was due by the pace, so a stall
cannot hide by delaying what follows.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import threading
import time
import traceback
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import shardwright
from shardwright.node import Node

ROOT = Path(__file__).resolve().parents[2]
ARENA = ROOT / "examples" / "arena"


@dataclass(slots=True)
class Played:
    """What a load run saw. Times in seconds."""

    times: list[float] = field(default_factory=list)
    from_due: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    trouble: Counter[str] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)  # tracebacks of the first of the trouble
    broken: list[BaseException] = field(default_factory=list)
    elapsed_s: float = 0.0
    cpu_s: float = 0.0
    compose_s: float = 0.0
    enter_s: float = 0.0

    def percentile_ms(self, share: float, of: str = "from_due") -> float:
        ordered = sorted(getattr(self, of))
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3 if ordered else 0.0

    def summary(self) -> dict[str, Any]:
        return {
            "calls": len(self.times),
            "elapsed_s": round(self.elapsed_s, 2),
            "calls_per_s": round(len(self.times) / self.elapsed_s, 1),
            "p50_ms": round(self.percentile_ms(0.50), 2),
            "p99_ms": round(self.percentile_ms(0.99), 2),
            "max_ms": round(self.percentile_ms(1.0), 2),
            "call_p50_ms": round(self.percentile_ms(0.50, "times"), 2),
            "call_p99_ms": round(self.percentile_ms(0.99, "times"), 2),
            "cores_used": round(self.cpu_s / self.elapsed_s, 2),
            "compose_s": round(self.compose_s, 3),
            "all_entered_s": round(self.enter_s, 3),
            "refused_by_the_game": dict(sorted(self.refused.items())),
            "trouble": dict(self.trouble),
            "told": self.told,
        }


def _play(
    node: Node, visitors: Any, name: str, rounds: int, pace_hz: float, start: threading.Barrier, into: Played,
    mutex: threading.Lock,
) -> None:  # fmt: skip
    times, dues = [], []
    try:
        begun = time.monotonic()
        with node.session(name) as session:
            composed = time.monotonic() - begun
            visitor = visitors.visit(name, rounds)
            # all log in at once, which hashes passwords one after the other; who is in waits until all are
            target, arguments = next(visitor)
            began = time.monotonic()
            send, value = visitor.send, session.call(target, *arguments)
            entered = time.monotonic() - began
            start.wait(60)
            # spread over one period, as real players are
            first = time.monotonic() + (zlib.crc32(name.encode()) % 1000) / 1000 / pace_hz
            for turn in itertools.count():
                try:
                    target, arguments = send(value)
                except StopIteration as stop:
                    report = stop.value
                    break
                due = first + turn / pace_hz
                wait_s = due - time.monotonic()
                if wait_s > 0:
                    time.sleep(wait_s)
                began = time.monotonic()
                try:
                    value, send = session.call(target, *arguments), visitor.send
                except Exception as error:
                    value, send = error, visitor.throw
                    if not isinstance(error, visitors.ArenaError) and len(into.told) < 5:
                        into.told.append("".join(traceback.format_exception(error)))
                ended = time.monotonic()
                times.append(ended - began)
                dues.append(ended - due)
        with mutex:
            into.times += times
            into.from_due += dues
            into.refused.update(report["refused"])
            into.trouble.update(report["trouble"])
            into.compose_s = max(into.compose_s, composed)
            into.enter_s = max(into.enter_s, entered)
    except BaseException as error:
        start.abort()
        with mutex:
            into.broken.append(error)


def play(node: Node, *, sessions: int, pace_hz: float, seconds: float) -> Played:
    """Play with so many sessions at that pace, for so long."""
    if str(ARENA) not in sys.path:
        sys.path.insert(0, str(ARENA))
    from arena import visitors

    result, mutex = Played(), threading.Lock()
    start = threading.Barrier(sessions + 1)
    rounds = int(seconds * pace_hz)
    threads = [
        threading.Thread(target=_play, args=(node, visitors, f"player-{n}", rounds, pace_hz, start, result, mutex))
        for n in range(sessions)
    ]
    for thread in threads:
        thread.start()
    start.wait(60)
    cpu, begun = cpu_seconds(node), time.monotonic()
    time.sleep(seconds * 0.95)  # the load lasts this long; meanwhile nothing may disturb the measurement
    result.cpu_s = (cpu_seconds(node) - cpu) / 0.95
    for thread in threads:
        thread.join(seconds + 60)
    result.elapsed_s = time.monotonic() - begun
    return result


def cpu_seconds(node: Node) -> float:
    """CPU time of this process and of all shards."""
    own = os.times()
    return own.user + own.system + sum(s.usage.cpu_s for s in node.shards() if s.usage is not None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--pace", type=float, default=10.0, help="calls a second of each session")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as state, shardwright.start(ARENA, state=state) as node:
        played = play(node, sessions=options.sessions, pace_hz=options.pace, seconds=options.seconds)
    for error in played.broken:
        print(repr(error), file=sys.stderr)
    print(json.dumps(played.summary(), indent=2))
    return 1 if played.broken or played.trouble else 0


if __name__ == "__main__":
    sys.exit(main())
