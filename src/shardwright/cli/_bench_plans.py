"""``bench plans``: small programs of committed seeds, planned by a profile, then run: what was predicted beside what came.

Each program runs uncut and cut, in turn. Then each of its cut functions is kept at home in turn, and what the run takes longer
for it is what that cut gained: by that the order of priorities is judged. Runs are timed within their process, from the first
line of ``main`` to its end, so that starting Python and a node is not in it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

from shardwright.cli._bench_programs import MANIFEST, small_program
from shardwright.cli._calibrate import calibrate
from shardwright.errors import NodeError
from shardwright.manifest import load as load_manifest
from shardwright.model.shard import ShardPlan
from shardwright.node import measured_plan, write_constants

_TIMED = """

_real_main = main


def main():
    import time
    begun = time.perf_counter()
    _real_main()
    print("took", time.perf_counter() - begun)
"""


def measure(
    seeds: Sequence[int],
    rounds: int,
    environment: Mapping[str, str],
    say: Callable[[str], None],
    kept: Path | None = None,
) -> list[dict[str, Any]]:
    """A record for each program, and one for all of them. ``kept`` holds those of runs before, and of this one afterwards."""
    write_constants(environment, calibrate(environment))  # what this machine makes of it now
    known: dict[str, dict[str, Any]] = {}
    if kept is not None and kept.is_file():
        known = {record["case"]: record for record in json.loads(kept.read_text(encoding="utf-8"))}
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="shardwright-bench-plans-") as folder:
            record = _program(seed, Path(folder), rounds, environment)
        record["load"] = round(os.getloadavg()[0], 1)
        known[record["case"]] = record
        say(f"program {seed}: {record}")
        if kept is not None:
            kept.write_text(json.dumps(list(known.values()), indent=1), encoding="utf-8")
    records = sorted(known.values(), key=lambda record: int(record["case"].split()[1]))
    return [*records, _summary(records)]


def _program(seed: int, folder: Path, rounds: int, environment: Mapping[str, str]) -> dict[str, Any]:
    (folder / "shardwright.toml").write_text(MANIFEST, encoding="utf-8")
    (folder / "small.py").write_text(small_program(seed) + _TIMED, encoding="utf-8")
    command = [sys.executable, "-m", "shardwright"]
    _run([*command, "plan", str(folder), "--profile", "--"], environment, folder)
    plan = _planned(folder, environment)
    uncut = [sys.executable, "-c", "import small; small.main()"]
    cut = [*command, "run", str(folder), "--quiet"]
    functions = [function.id for each in plan.cuts for function in each.functions]
    times: dict[str, list[float]] = {"uncut": [], "cut": [], **{name: [] for name in functions if len(functions) > 1}}
    said: set[str] = set()
    for _ in range(rounds):
        for name, taken in times.items():
            never = f"never_cut = [{json.dumps(name)}]\n" if name in functions else ""
            (folder / "shardwright.toml").write_text(MANIFEST + never, encoding="utf-8")
            taken.append(_run(uncut if name == "uncut" else cut, environment, folder, said))
    if len(said) != 1:
        raise NodeError(f"program {seed} said different things, cut and uncut: {sorted(said)}")
    took = {name: median(taken) for name, taken in times.items()}
    predicted = {function: gain for each in plan.cuts for function, gain in _gains(plan, each.part).items()}
    measured = {name: took[name] - took["cut"] for name in functions if name in took}
    record: dict[str, Any] = {
        "case": f"program {seed}", "functions_cut": len(functions), "uncut_s": round(took["uncut"], 3),
        "cut_s": round(took["cut"], 3), "gain": round(took["uncut"] / took["cut"], 3),
    }  # fmt: skip
    if plan.cuts:
        wall_s = sum(each.predicted_s for each in plan.cuts)
        record["predicted_s"] = round(wall_s, 3)
        record["error"] = round(abs(wall_s - took["cut"]) / took["cut"], 3)
    if len(measured) > 1:
        record["kendall_tau"] = round(kendall_tau([(predicted[name], measured[name]) for name in measured]), 3)
        record["pairs"] = [[round(predicted[name], 4), round(measured[name], 4)] for name in measured]
    return record


def _planned(folder: Path, environment: Mapping[str, str]) -> ShardPlan:
    return measured_plan(load_manifest(folder, environment=dict(environment)), environment)


def _gains(plan: ShardPlan, part: str) -> dict[str, float]:
    """What each function of a part was predicted to gain."""
    (cut,) = [each for each in plan.cuts if each.part == part]
    return dict(zip([function.id for function in cut.functions], cut.gains_s, strict=True))


def _run(command: Sequence[str], environment: Mapping[str, str], folder: Path, said: set[str] | None = None) -> float:
    """Seconds that ``main`` took, or the whole command where it does not say."""
    begun_s = time.perf_counter()
    own = {**environment, "PYTHONPATH": os.pathsep.join(filter(None, (str(folder), environment.get("PYTHONPATH", ""))))}
    done = subprocess.run(command, env=own, cwd=folder, capture_output=True, text=True, check=False)
    whole_s = time.perf_counter() - begun_s
    if done.returncode:
        raise NodeError(f"{' '.join(command[:4])} ended with status {done.returncode}: {done.stderr[-600:]}")
    lines = done.stdout.splitlines()
    if said is None:
        return whole_s
    said.add("\n".join(line for line in lines if not line.startswith("took ")))
    return float(next(line for line in lines if line.startswith("took ")).split()[1])


def kendall_tau(pairs: Sequence[tuple[float, float]]) -> float:
    """How alike two orders are, from -1 to 1: Kendall's tau-a over the pairs of values."""
    agree = total = 0
    for (a, b), (c, d) in combinations(pairs, 2):
        total += 1
        agree += 1 if (a - c) * (b - d) > 0 else -1 if (a - c) * (b - d) < 0 else 0
    return agree / total if total else 1.0


def _summary(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    cut = [record for record in records if "error" in record]
    ranked = [record for record in records if "kendall_tau" in record]
    weights = sum(_pairs(record) for record in ranked)
    return {
        "case": "all",
        "programs": len(records),
        "programs_cut": len(cut),
        "median_error": round(median(record["error"] for record in cut), 3) if cut else None,
        "median_gain": round(median(record["gain"] for record in cut), 3) if cut else None,
        "worst_gain": min((record["gain"] for record in cut), default=None),
        "kendall_tau": round(sum(record["kendall_tau"] * _pairs(record) for record in ranked) / weights, 3)
        if ranked
        else None,
        "pairs_ranked": weights,
    }


def _pairs(record: Mapping[str, Any]) -> int:
    size = len(record["pairs"])
    return size * (size - 1) // 2


def report(machine: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> str:
    """``docs/results/plans.md``."""
    lines = [
        "# Plans: predicted beside measured", "",
        "Written by `shardwright bench plans --write docs/results/plans.md`. Small programs of committed seeds, of 3 to 11",
        "functions, one component each; seconds of `main`, medians of runs in turn. *Error* is the difference of predicted and",
        "measured, by measured; *tau* is Kendall's, of predicted gains against what the run takes longer without each cut;",
        "*load* is the machine's in the minute before.", "",
        ", ".join(f"{name} {value}" for name, value in machine.items()) + ".", "",
        "| program | functions cut | uncut s | cut s | times as fast | predicted s | error | tau | load |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    columns = ("case", "functions_cut", "uncut_s", "cut_s", "gain", "predicted_s", "error", "kendall_tau", "load")
    lines += ["| " + " | ".join(str(record.get(name, "")) for name in columns) + " |" for record in records[:-1]]
    lines += ["", ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in records[-1].items()) + "."]
    return "\n".join(lines) + "\n"
