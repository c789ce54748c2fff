"""Recordings of a node's controller: decided alike again, and told when they are not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from shardwright.errors import TraceError
from shardwright.simulation import is_recording, replay_recording

ROW = {
    "shard": "a-1", "component": "a", "priority": 50.0, "usage": [0.1, 0.01], "lacked": [0.5, 0.0], "measured_s": 5.0,
    "forecast": [math.nan, math.nan], "floor": [0.1, 0.03125], "ceiling": [1.0, 0.125], "guarantee": [0.1, 0.03125],
    "oom_s": -math.inf,
}  # fmt: skip


def write(path: Path, *lines: object) -> Path:
    path.write_text(
        "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in ({"recording": 1, "app": "x"}, *lines))
    )
    return path


def limits(decided: list[object], **changed: object) -> dict[str, object]:
    return {"limits": 5.0, "capacity": [2.0, 4.0], "rows": [{**ROW, **changed}], "decided": decided, "pressure": {}}


def test_the_same_is_decided(tmp_path: Path) -> None:
    path = write(tmp_path / "r", limits([["a-1", 0.69, None, True]]), {"done": 5.0, "step": ["a-1", 0.69, None, True]})
    assert is_recording(path)
    found = replay_recording(path)
    assert found.same, found.differences
    assert (found.rounds, found.limit_steps) == (1, 1)


def test_what_comes_out_otherwise_is_told(tmp_path: Path) -> None:
    found = replay_recording(write(tmp_path / "r", limits([["a-1", 0.5, None, True]])))
    assert not found.same
    assert "line 2" in found.differences[0]


def test_numbers_that_are_none_are_replayed_as_they_were(tmp_path: Path) -> None:
    assert replay_recording(write(tmp_path / "r", limits([], usage=[math.nan, math.nan]))).same


def test_a_line_that_was_cut_off_ends_it(tmp_path: Path) -> None:
    path = write(tmp_path / "r", limits([["a-1", 0.69, None, True]]))
    with path.open("a") as file:
        file.write('{"limits":6.0,"rows":[')
    assert replay_recording(path).rounds == 1


@pytest.mark.parametrize("lines", [["[]"], ['{"recording":2}'], ['{"recording":1}', '{"limits":1}'], ["{", "}"], [""]])
def test_what_is_no_recording_is_refused(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "r").write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(TraceError):
        replay_recording(tmp_path / "r")
