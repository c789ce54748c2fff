"""The plans of the bundled examples, as text. ``SHARDWRIGHT_UPDATE_SNAPSHOTS=1`` writes them anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shardwright.manifest import load
from shardwright.sharding import plan, plan_text

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"


@pytest.mark.parametrize("name", ["arena", "pressroom"])
def test_plan_of_example(name: str) -> None:
    found = plan(load(EXAMPLES / name / "shardwright.toml"))
    text, snapshot = plan_text(found), HERE / f"sharding_{name}.txt"
    if os.environ.get("SHARDWRIGHT_UPDATE_SNAPSHOTS") == "1":
        snapshot.write_text(text, "utf-8")
    assert text == snapshot.read_text("utf-8")
    assert found.refusals == ()
