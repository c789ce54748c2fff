"""The arena with fifty players. The full minute: ``python tests/e2e/load_arena.py --seconds 60``, or SWT_LONG=1 here."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import shardwright
from shardwright.errors import ShardLost

HERE = Path(__file__).parent
ARENA = HERE.parents[1] / "examples" / "arena"
LONG = bool(os.environ.get("SWT_LONG"))
SECONDS = 60.0 if LONG else 15.0
P99_MS = 50.0  # judged by the long form alone, which is run on a machine that does nothing else
Record = Callable[[str, int], None]


@pytest.fixture(scope="module")
def load_arena() -> ModuleType:
    spec = importlib.util.spec_from_file_location("load_arena", HERE / "load_arena.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["load_arena"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_fifty_players_at_ten_calls_a_second(load_arena: Any, tmp_path: Path, record_exercised: Record) -> None:
    with shardwright.start(ARENA, state=tmp_path) as node:
        played = load_arena.play(node, sessions=50, pace_hz=10.0, seconds=SECONDS)
    assert not played.broken
    assert not played.trouble, "only the game's own refusals are allowed\n" + "\n".join(played.told)
    assert len(played.times) >= 50 * 10 * SECONDS
    p99_ms = played.percentile_ms(0.99, "times")
    assert not LONG or p99_ms <= P99_MS, json.dumps(played.summary())
    record_exercised("calls of arena players", len(played.times))
    record_exercised("ms: p99 of these calls (with whatever else this machine did)", round(p99_ms))


def test_the_judge_of_load_sees_trouble(load_arena: Any) -> None:
    played = load_arena.Played(times=[0.001] * 98 + [0.2, 0.3], elapsed_s=1.0)
    assert played.percentile_ms(0.5, "times") == pytest.approx(1.0)
    assert played.percentile_ms(0.99, "times") == pytest.approx(300.0)
    played.trouble[ShardLost.__name__] += 1
    assert played.summary()["trouble"] == {"ShardLost": 1}
