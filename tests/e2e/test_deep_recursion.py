"""A recursion that goes back and forth between two shards ends as Python's own does, and harms nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

import shardwright

MANIFEST = '[app]\nname = "deep"\n[components.a]\ncode = "deep.a"\n[components.b]\ncode = "deep.b"\n'
HALF = "from deep import {other}\n\ndef down(n):\n    return 0 if n == 0 else 1 + {other}.down(n - 1)\n"


@pytest.mark.parametrize("inproc", [False, True], ids=["processes", "inproc"])
def test_too_deep_is_a_recursion_error(tmp_path: Path, inproc: bool) -> None:
    package = tmp_path / "deep"
    package.mkdir()
    (package / "a.py").write_text(HALF.format(other="b"))
    (package / "b.py").write_text(HALF.format(other="a"))
    (tmp_path / "shardwright.toml").write_text(MANIFEST)
    with (
        shardwright.start(tmp_path, inproc=inproc, state=tmp_path / "state") as node,
        node.session("deep") as session,
    ):
        shards = {shard.id for shard in node.shards()}
        assert session.call("a.down", 900) == 900, "Python's own limit of 1000 is for the program's frames"
        with pytest.raises(RecursionError):
            session.call("a.down", 5000)
        assert session.call("a.down", 50) == 50
        assert {shard.id for shard in node.shards()} == shards
