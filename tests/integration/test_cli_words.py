"""What is said to who asks for what is not there, or of a node that stands still."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import shardwright as public
from cli_apps import background, shardwright, write_app
from shardwright.errors import NotPermitted

WORKER = """
def odd():
    return 1
def even():
    return 2
"""
MANIFEST = '[app]\nname = "words"\n[components.worker]\ncode = "worker"\n'


def test_a_node_that_stands_still_is_told_from_none(tmp_path: Path) -> None:
    app = write_app(tmp_path / "words", MANIFEST, worker=WORKER)
    with background(tmp_path, "run", str(app)) as run:
        run.wait_for("words is ready")
        pid = run.process.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            asked = (["ps"], ["ps", "words"], ["stop", str(pid)], ["ps", str(app)], ["ps", "other"])
            with ThreadPoolExecutor() as pool:  # each gives the node its five seconds
                *answers, named = pool.map(lambda command: shardwright(tmp_path, *command), asked)
            for done in answers:
                assert done.returncode == 3, done.stderr
                assert f"the node of words (pid {pid}) runs, but does not answer" in done.stderr
                assert f"kill -CONT {pid}" in done.stderr
            assert "no running node is named 'other'" in named.stderr
        finally:
            os.kill(pid, signal.SIGCONT)
        assert shardwright(tmp_path, "ps", "words").returncode == 0
        assert run.end(signal.SIGTERM) == 0


def test_a_component_without_a_function_and_times_that_are_none(tmp_path: Path) -> None:
    app = write_app(tmp_path / "words", MANIFEST, worker=WORKER)
    with public.start(app, state=tmp_path / "state") as node, node.session("one") as session:
        with pytest.raises(NotPermitted, match="'worker' names a component, and no function of it") as told:
            session.call("worker")
        assert "worker.even" in told.value.remedy and "worker.odd" in told.value.remedy
        assert "main" not in str(told.value)
        for wrong in ("x", None, True):
            with pytest.raises(TypeError, match="seconds as a number, not"):
                session.with_timeout(wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="not nan"):
            session.with_timeout(float("nan"))
        assert session.with_timeout(30).call("worker.odd") == 1
