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
        with pytest.raises(RecursionError) as endless:
            session.call("a.down", 5000)
        assert all(len(note) < 200 for note in endless.value.__notes__)
        assert session.call("a.down", 50) == 50
        assert {shard.id for shard in node.shards()} == shards


LEANING = """
from deep import b

def endless(n):
    b.succ(n)
    return endless(n + 1)

def start(depth):
    if depth:
        return start(depth - 1)
    try:
        endless(0)
    except RecursionError:
        return "caught"
"""


@pytest.mark.parametrize("inproc", [False, True], ids=["processes", "inproc"])
def test_a_recursion_of_one_component_that_calls_another(tmp_path: Path, inproc: bool) -> None:
    """Wherever the limit strikes, it is the program's own RecursionError, and harms nothing of ours."""
    package = tmp_path / "deep"
    package.mkdir()
    (package / "a.py").write_text(LEANING)
    (package / "b.py").write_text("def succ(n):\n    return n + 1\n")
    (tmp_path / "shardwright.toml").write_text(MANIFEST)
    with (
        shardwright.start(tmp_path, inproc=inproc, state=tmp_path / "state") as node,
        node.session("deep") as session,
    ):
        for depth in range(12):  # frames of ours and of the program take turns: each offset meets another of them
            assert session.with_timeout(30).call("a.start", depth) == "caught"
            assert session.with_timeout(30).call("b.succ", depth) == depth + 1
