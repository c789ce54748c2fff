"""The bundled applications compute the same uncut, as shards in processes, and as shards in one process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shardwright.node import Options, Running

EXAMPLES = Path(__file__).parents[2] / "examples"
MODES = ("processes", "inproc")
WALLED = {
    "arena": ("ai", "auth", "chat", "game", "physics", "render"),
    "pressroom": ("highlight", "index", "markdown", "thumbs"),
}
README = (
    "# {name}\n\nSome *text* of {name}, with `code` and a list:\n\n- one\n- two\n\n```python\nprint({name!r})\n```\n"
)


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def uncut(example: str, *arguments: str, folder: Path) -> str:
    environment = dict(os.environ, PYTHONPATH=str(EXAMPLES / example))
    done = subprocess.run(
        [sys.executable, "-m", example, *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    return done.stdout


def run_cut(example: str, mode: str, *arguments: str, folder: Path) -> int:
    options = Options(inproc=mode == "inproc", argv=(example, *arguments), terminal=True, state=folder / "state")
    running = Running(EXAMPLES / example, options)
    try:
        finished = running.run_main()
        assert not finished.traceback, finished.traceback
        if mode == "processes":
            behind_walls(example, running)
        return finished.status
    finally:
        running.close()


def behind_walls(example: str, running: Running) -> None:
    """Where isolation `auto` came to walls they were there, and refused nothing."""
    expected = set(WALLED[example])
    walled = {each.component for each in running.submit(running.status()).result(10) if each.isolation == "namespace"}
    assert walled and walled <= expected
    assert {
        str(each.component) for each in running.plan.definitions if each.auto and each.auto.isolation == "namespace"
    } == (expected)
    kinds = [each.event.kind for each in running.core.events.since(0)]
    assert "denied" not in kinds and "isolation" not in kinds


@pytest.mark.parametrize("mode", MODES)
def test_the_arena_plays_the_same_match(
    mode: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], record_exercised: Callable[[str, int], None]
) -> None:
    arguments = ("--players", "4", "--rounds", "15")
    expected = uncut("arena", *arguments, folder=tmp_path)
    capfd.readouterr()
    assert run_cut("arena", mode, *arguments, folder=tmp_path) == 0
    assert capfd.readouterr().out == expected
    record_exercised(f"calls of players in the arena ({mode})", 4 * 15)


@pytest.mark.parametrize("mode", MODES)
def test_the_pressroom_prints_the_same_bytes(
    mode: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], record_exercised: Callable[[str, int], None]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(12):
        (source / f"text{number:02}.md").write_text(README.format(name=f"name{number}"))
    expected = uncut("pressroom", "--source", str(source), "--out", str(tmp_path / "uncut"), folder=tmp_path)
    capfd.readouterr()
    assert run_cut(
        "pressroom", mode, "--source", str(source), "--out", str(tmp_path / "cut"), folder=tmp_path
    ) == 0  # fmt: skip
    assert capfd.readouterr().out == expected
    assert digest(tmp_path / "cut") == digest(tmp_path / "uncut")
    record_exercised(f"files of pressroom, the same bytes ({mode})", len(digest(tmp_path / "cut")))
