"""What a node records of its rounds: every field of every row."""

from __future__ import annotations

import json
from pathlib import Path

from msgspec import to_builtins

from shardwright.controller import ShardRow
from shardwright.model.ids import ComponentName, ShardId
from shardwright.node._recording import Recording


def test_a_row_is_recorded_whole(tmp_path: Path) -> None:
    row = ShardRow(
        ShardId("s1"), ComponentName("c"), 50.0, (0.5, 1.5), (0.25, 0.0), 12.5, (float("inf"), 2.0), (0.0, 0.5), (8.0, 4.0),
        (0.1, 0.2),
    )  # fmt: skip
    recording = Recording(tmp_path / "recorded", "app")
    recording.limits(13.0, [row, row], (2.0, 4.0), (), {"cpu": 0.5})
    recording.close()
    line = json.loads((tmp_path / "recorded").read_text().splitlines()[1])
    assert line == {
        "limits": 13.0,
        "capacity": [2.0, 4.0],
        "rows": [json.loads(json.dumps(to_builtins(row)))] * 2,
        "decided": [],
        "pressure": {"cpu": 0.5},
    }
