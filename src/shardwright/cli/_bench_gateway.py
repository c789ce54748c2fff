"""``bench gateway``: requests through the gateway to shards, beside the same server library with the functions in process.

All cases are measured in turn, round after round, so that what else the machine does meets them alike; medians are told.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from msgspec import Struct

from shardwright.cli._bench_load import Load, await_port, load, wrk
from shardwright.node import Node, start

CONNECTIONS = 32
LIBRARY, FRONT = "library in process", "front in process"

_MANIFEST = """
    [app]
    name = "bench-gateway"
    [components.stock]
    code = "stock"
    [components.auth]
    code = "auth"
    [components.inventory]
    code = "inventory"
    [gateway]
    bind = "127.0.0.1:0"
    [[routes]]
    path = "/nop"
    methods = ["GET"]
    call = "stock.nop"
    [[routes]]
    path = "/chain/{item}"
    methods = ["GET"]
    call = "auth.get"
"""
_STOCK = """
    def nop() -> None:
        return None
"""
_AUTH = """
    import inventory

    BANNED = frozenset({"mallory"})

    def get(item: int, user: str = "alice") -> int:
        if user in BANNED:
            raise PermissionError(user)
        return inventory.get(item)
"""
_INVENTORY = """
    PRICES = (3, 14, 15, 92, 65)

    def get(item: int) -> int:
        return PRICES[item % 5]
"""


class Case(Struct, frozen=True):
    """What is measured. ``floor`` is the path of the same work in process."""

    name: str
    placement: str
    url: str
    path: str
    processes: Mapping[str, int]


def measure(seconds: float, rounds: int, told: Callable[[str], None]) -> list[dict[str, Any]]:
    """A record for each case. Raises NodeError when there is no wrk, or a request is not answered as it should be."""
    wrk()
    with tempfile.TemporaryDirectory(prefix="shardwright-bench-") as folder, ExitStack() as stack:
        app = _application(Path(folder))
        cases: list[Case] = []
        for name, how in ((LIBRARY, "library"), (FRONT, "front")):
            process, port = stack.enter_context(_server(how, app))
            for path in ("/nop", "/chain/1"):
                if how == "library" or path == "/nop":
                    url = f"http://127.0.0.1:{port}{path}"
                    cases.append(Case(f"{_what(path)}, {name}", "in process", url, path, {"server": process.pid}))
        node = stack.enter_context(start(app, state=Path(folder) / "state"))
        for path, shards in (("/nop", ("stock",)), ("/chain/1", ("auth", "inventory"))):
            load(node.urls[0] + path, 1, CONNECTIONS, {})  # binds, and warms up
            processes = {component: _pid(node, component) for component in ("gateway", *shards)}
            placement = f"{len(processes)} processes"
            cases.append(Case(f"{_what(path)}, gateway", placement, node.urls[0] + path, path, processes))
        runs: dict[str, list[Load]] = {case.name: [] for case in cases}
        for number in range(rounds):
            for case in (*cases[number % len(cases) :], *cases[: number % len(cases)]):
                runs[case.name].append(load(case.url, seconds, CONNECTIONS, case.processes))
            told(f"round {number + 1} of {rounds}")
    return [_record(case, runs) for case in cases]


def _what(path: str) -> str:
    return "no-op" if path == "/nop" else "auth to inventory"


def _application(folder: Path) -> Path:
    app = folder / "app"
    app.mkdir()
    for name, text in (
        ("shardwright.toml", _MANIFEST),
        ("stock.py", _STOCK),
        ("auth.py", _AUTH),
        ("inventory.py", _INVENTORY),
    ):
        (app / name).write_text(textwrap.dedent(text), encoding="utf-8")
    return app


@contextmanager
def _server(how: str, app: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    with subprocess.Popen(
        [sys.executable, "-m", "shardwright.cli._bench_server", how, str(app)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process, await_port(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _pid(node: Node, component: str) -> int:
    return next(shard.pid for shard in node.shards() if shard.component == component and shard.pid)


def _record(case: Case, runs: Mapping[str, list[Load]]) -> dict[str, Any]:
    mine = runs[case.name]
    record: dict[str, Any] = {
        "case": case.name,
        "placement": case.placement,
        "connections": CONNECTIONS,
        "rounds": len(mine),
        "requests_per_s": round(median(each.requests_per_s for each in mine), 1),
        "requests_per_s_min": round(min(each.requests_per_s for each in mine), 1),
        "requests_per_s_max": round(max(each.requests_per_s for each in mine), 1),
        "ratio_to_in_process": _ratio(mine, runs[f"{_what(case.path)}, {LIBRARY}"]),
        "p50_us": round(median(each.p50_us for each in mine), 1),
        "p99_us": round(median(each.p99_us for each in mine), 1),
        "p99_over_p50": round(median(each.p99_us / each.p50_us for each in mine), 2),
        "cpu_us_per_request": round(
            median(sum(us for name, us in each.cpu_us.items() if name != "wrk") for each in mine), 1
        ),
    }
    for name in mine[0].cpu_us:
        record[f"cpu_us_per_request_{name}"] = round(median(each.cpu_us[name] for each in mine), 1)
    if case.path == "/nop":
        record["ratio_to_front_in_process"] = _ratio(mine, runs[f"{_what(case.path)}, {FRONT}"])
    return record


def _ratio(mine: list[Load], floor: list[Load]) -> float:
    """The median over rounds: both were measured in the same one."""
    return round(median(a.requests_per_s / b.requests_per_s for a, b in zip(mine, floor, strict=True)), 3)
