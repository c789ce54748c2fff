"""A template that shards were just asked of has forked the next one already, and nothing of it is left in the end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import shardwright
from namespaces_here import need_namespaces
from shardwright.node import Node

APP = """
[app]
name = "ahead"
[components.one]
code = "one"
isolation = "{isolation}"
scope = "session"
limits = {{ memory = "96MiB" }}
warm = {{ min = 0, max = 0 }}
"""
CODE = "import os, random\ndef who():\n    return os.getpid(), random.random()\n"
WITHIN_S = 20.0


@pytest.fixture(params=["process", "namespace"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "namespace":
        need_namespaces()
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "shardwright.toml").write_text(APP.format(isolation=request.param))
    (folder / "one.py").write_text(CODE)
    return folder


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def waiting(node: Node, template: int) -> int:
    """The fork that waits to be told who it is."""
    end_s = time.monotonic() + WITHIN_S
    while time.monotonic() < end_s:
        for nobody in list(node.running.core.launcher._ahead._waiting.values()):  # type: ignore[union-attr]
            assert parent(nobody.port.pid) == template
            return int(nobody.port.pid)
        time.sleep(0.01)
    raise AssertionError("nothing was forked ahead")


def test_the_next_shard_was_forked_before_it_was_asked_for(
    app: Path, tmp_path: Path, record_exercised: Callable[[str, int], None]
) -> None:
    with shardwright.start(app, state=tmp_path / "state") as node:
        with node.session("first") as first:
            drawn = {first.call("one.who")[1]}
            (shard,) = node.shards()
            template = parent(shard.pid)
            for number in range(3):
                ahead = waiting(node, template)
                assert ahead not in {each.pid for each in node.shards()}, "it is nobody yet"
                with node.session(f"next-{number}") as session:
                    drawn.add(session.call("one.who")[1])
                    (taken,) = [each for each in node.shards() if f"next-{number}" in each.sessions]
                    assert taken.pid == ahead
                    assert taken.usage is not None and taken.usage.memory_bytes < 96 * 2**20
            assert len(drawn) == 4, "each draws numbers of its own"
        left = {template, waiting(node, template)}
    end_s = time.monotonic() + WITHIN_S  # a killed process takes its time
    while any(os.path.exists(f"/proc/{pid}") for pid in left):
        assert time.monotonic() < end_s, left
        time.sleep(0.01)
    record_exercised("shards that had been forked ahead", 3)


def test_one_that_died_while_it_waited_is_no_loss(app: Path, tmp_path: Path) -> None:
    with shardwright.start(app, state=tmp_path / "state") as node, node.session("first") as first:
        first.call("one.who")
        (shard,) = node.shards()
        ahead = waiting(node, parent(shard.pid))
        os.kill(ahead, signal.SIGKILL)
        with node.session("next") as session:
            session.call("one.who")
            assert ahead not in {each.pid for each in node.shards()}


def test_other_limits_take_another_fork(app: Path, tmp_path: Path) -> None:
    """What waits is in control groups with the limits of the one before it."""
    with shardwright.start(app, state=tmp_path / "state") as node, node.session("first") as first:
        first.call("one.who")
        (shard,) = node.shards()
        template = parent(shard.pid)
        waiting(node, template)
        held = next(iter(node.running.core.launcher._ahead._waiting.values()))  # type: ignore[union-attr]
        held.limits = type(held.limits)()
        with node.session("next") as session:
            session.call("one.who")
            assert held.port.pid not in {each.pid for each in node.shards()}
