"""``simulate`` from a terminal: table, JSON, plot, report; the same to the byte; bad input said so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shardwright.cli._invocation import Invocation
from shardwright.cli._main import invoke


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    generator = np.random.default_rng(5)
    path = tmp_path / "requests.csv"
    lines = [f"web,{at:.3f}" for at in np.cumsum(generator.exponential(20, 300))]
    path.write_text("\n".join(["component,arrival_s", *lines]), encoding="utf-8")
    return path


def test_json_and_plots_are_the_same_to_the_byte(trace: Path) -> None:
    seen = []
    for number in range(2):
        for kind in ("svg", "png"):
            plot = trace.with_name(f"{number}.{kind}")
            # a process of its own: matplotlib keeps its fonts open
            command = [sys.executable, "-m", "shardwright", "simulate", str(trace), "--json", "--plot", str(plot)]
            seen.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert len(set(seen)) == 1
    result = json.loads(seen[0].splitlines()[0])
    policies = {row["policy"] for row in result["policies"]}
    assert {"shardwright", "fixed 10 min", "clairvoyant", "hybrid histogram", "greedy dual"} <= policies
    for kind in ("svg", "png"):
        first, second = (trace.with_name(f"{number}.{kind}").read_bytes() for number in range(2))
        assert first == second
        assert len(first) > 5000


def test_a_table_names_every_policy(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["simulate", str(trace), "--hold", "30"], Invocation({})) == 0
    assert "clairvoyant, no prewarming" in capsys.readouterr().out


def test_what_is_no_trace_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("what,is,this\n", encoding="utf-8")
    assert invoke(["simulate", str(bad)], Invocation({})) == 2
    assert "SW110" in capsys.readouterr().err
