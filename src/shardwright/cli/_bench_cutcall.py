"""``bench cutcall``: one call of a cut function with small arguments, beside a bare call of another component's.

Both are made in turn in one shard: the first with everything that cuts do (arguments numbered and watched for changes, what
classes were given, fallback, counts), the second over a channel of the same kind with nothing of that. The stub's local path is
what a cut function costs more where nobody is to be asked.
"""

from __future__ import annotations

import json
import tempfile
import timeit
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from types import FunctionType
from typing import Any

from shardwright.guest import stub_code
from shardwright.manifest import load as load_manifest
from shardwright.node import Options, Running
from shardwright.sharding import cut_functions
from shardwright.sharding import plan as plan_manifest

_CALLER = """
import json, statistics, time
import bare

VALUES = {"none": None, "three small values": (1, 2, "three"), "a list": [1, 2, 3]}

def echo(value):
    return value

def timed(function, value, count):
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        function(value)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)

def main():
    rows = []
    for _ in range(ROUNDS):
        for name, value in VALUES.items():
            for function in (echo, bare.echo):
                timed(function, value, 100)
            rows.append((name, timed(echo, value, COUNT), timed(bare.echo, value, COUNT)))
    with open(FILE, "w") as file:
        json.dump(rows, file)
"""
_BARE = "def echo(value):\n    return value\n"
_MANIFEST = (
    '[app]\nname = "cutcall"\nmain = "cutcaller:main"\n[components.whole]\ncode = "cutcaller"\n[components.bare]\n'
    'code = "bare"\n'
)
_COUNT = 1000


def measure(rounds: int, environment: Mapping[str, str], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """A record for each kind of argument, in microseconds, and one for the local path, in nanoseconds."""
    with tempfile.TemporaryDirectory(prefix="shardwright-bench-cutcall-") as folder:
        told = Path(folder, "told.json")
        source = _CALLER.replace("ROUNDS", str(rounds)).replace("COUNT", str(_COUNT)).replace("FILE", repr(str(told)))
        Path(folder, "cutcaller.py").write_text(source, encoding="utf-8")
        Path(folder, "bare.py").write_text(_BARE, encoding="utf-8")
        Path(folder, "shardwright.toml").write_text(_MANIFEST, encoding="utf-8")
        manifest = load_manifest(folder, environment=dict(environment))
        plan = cut_functions(manifest, plan_manifest(manifest), {"whole": ["cutcaller:echo"]}, shards=1)
        running = Running(folder, Options(environment=environment, state=Path(folder, "state"), plan=plan, api=False))
        try:
            running.run_main()
        finally:
            running.close()
        rows = json.loads(told.read_text(encoding="utf-8"))
    records: list[dict[str, Any]] = []
    for name in dict.fromkeys(row[0] for row in rows):
        pairs = [(cut_s * 1e6, bare_s * 1e6) for what, cut_s, bare_s in rows if what == name]
        records.append(
            {
                "case": f"cut call, {name}", "p50_us": round(median(cut for cut, _ in pairs), 2),
                "bare_p50_us": round(median(bare for _, bare in pairs), 2),
                "ratio": round(median(cut / bare for cut, bare in pairs), 2),
            }
        )  # fmt: skip
        say(f"{records[-1]}")
    return [*records, {"case": "local path of a stub", "p50_ns": round(_local_ns(), 1)}]


class _Home:
    away = False
    stayed = 0

    def __init__(self, original: FunctionType) -> None:
        self.original = original


def _local_ns() -> float:
    """What a call takes longer through a stub that lets it run here."""

    def straight(value: int, other: int = 1) -> int:
        return value

    def nobody(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raise AssertionError("nobody is to be asked")

    code = straight.__code__
    original = FunctionType(code, globals(), "straight", straight.__defaults__)
    stubbed = FunctionType(
        stub_code(code, nobody, "nowhere", _Home(original)), globals(), "straight", straight.__defaults__
    )
    count = 100_000
    differences = []
    for _ in range(9):
        with_stub = min(timeit.repeat(lambda: stubbed(1), number=count, repeat=3))
        differences.append((with_stub - min(timeit.repeat(lambda: straight(1), number=count, repeat=3))) / count * 1e9)
    return median(differences)
