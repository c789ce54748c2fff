"""Limits of running shards are changed within what the node has, and the journal says so."""

from __future__ import annotations

from pathlib import Path

import pytest

import shardwright
from limits_here import need_limits
from shardwright.errors import NodeError
from shardwright.model.limits import Limits
from shardwright.node import Node

MANIFEST = """
[app]
name = "resized"
[components.store]
code = "store"
resources = { cpu = 0.05, memory = "32MiB" }
limits = { cpu = 1.0, memory = "128MiB" }
state = "memory"
[components.work]
code = "work"
scope = "session"
resources = { cpu = 0.02, memory = "24MiB" }
limits = { cpu = 0.5, memory = "96MiB" }
[policy]
node_grace = "0s"
"""


@pytest.fixture(params=["processes", "inproc"])
def node(request: pytest.FixtureRequest, tmp_path: Path):
    if request.param == "processes":
        need_limits()
    app = tmp_path / "app"
    app.mkdir()
    (app / "shardwright.toml").write_text(MANIFEST)
    (app / "store.py").write_text("_kept = []\n\n\ndef keep(value):\n    _kept.append(value)\n    return len(_kept)\n")
    (app / "work.py").write_text("def double(value):\n    return value * 2\n")
    with shardwright.start(app, inproc=request.param == "inproc", state=tmp_path / "state") as node:
        yield node


def limits_of(node: Node, component: str) -> list[tuple[float | None, int | None, float | None, int | None]]:
    return [
        (s.guarantee_cpu, s.guarantee_memory_bytes, s.ceiling_cpu, s.ceiling_memory_bytes)
        for s in node.shards()
        if s.component == component
    ]


def test_a_component_and_a_shard_are_resized_while_they_serve(node: Node) -> None:
    with node.session("one") as session:
        assert session.call("store.keep", 1) == 1
        applied = node.resize("store", guarantee={"cpu": 0.1}, ceiling={"memory": "64MiB"})
        (shard,) = applied
        assert isinstance(applied[shard], Limits)
        assert applied[shard].ceiling.memory_bytes == 64 * 2**20
        assert limits_of(node, "store") == [(0.1, 32 * 2**20, 1.0, 64 * 2**20)]
        assert session.call("store.keep", 2) == 2, "the shard lives on"
        again = node.resize(shard, ceiling={"memory": 160 * 2**20, "cpu": "0.75"})
        assert again[shard].ceiling.memory_bytes == 160 * 2**20
        assert limits_of(node, "store") == [(0.1, 32 * 2**20, 0.75, 160 * 2**20)]
    (last, *_) = reversed(node.running.core.journal.tail(100, kind="resize"))
    assert last.shard == shard


def test_every_running_shard_of_a_component_is_resized(node: Node) -> None:
    with node.session("one") as one, node.session("two") as two:
        assert (one.call("work.double", 2), two.call("work.double", 3)) == (4, 6)
        applied = node.resize("work", ceiling={"cpu": 0.25})
        serving = {s.id for s in node.shards() if s.component == "work" and s.sessions}
        assert len(serving) == 2
        assert serving <= set(applied)
        assert {row[2] for row in limits_of(node, "work")} == {0.25}


@pytest.mark.parametrize(
    ("target", "guarantee", "ceiling", "words"),
    [
        ("stor", {"cpu": 0.1}, {}, ["'stor'", "did you mean 'store'"]),
        ("store", {"memroy": "64MiB"}, {}, ["'memroy'", "did you mean 'memory'"]),
        ("store", {}, {"memory": "64 MB of it"}, ["ceiling of memory", "64MiB"]),
        ("store", {}, {"memory": "16MiB"}, ["guarantee of memory", "above its ceiling"]),
        ("store", {"cpu": 2}, {}, ["guarantee of cpu", "above its ceiling"]),
        ("store", {"cpu": True}, {}, ["guarantee of cpu", "True"]),
        ("store", {"cpu": -1}, {}, ["guarantee of cpu", "0 or more"]),
        ("store", {}, {"cpu": 0}, ["ceiling of cpu", "more than 0"]),
        ("store", {"cpu": float("nan")}, {}, ["guarantee of cpu"]),
        ("store", {"cpu": "much"}, {}, ["guarantee of cpu", "'much'"]),
        ("store", {}, {}, ["nothing to change"]),
        ("store", {"memory": "900TiB"}, {"memory": "1000TiB"}, ["does not fit", "memory"]),
    ],
)
def test_what_cannot_be_done_is_refused_whole(
    node: Node, target: str, guarantee: dict[str, object], ceiling: dict[str, object], words: list[str]
) -> None:
    before = limits_of(node, "store")
    with pytest.raises(NodeError) as refused:
        node.resize(target, guarantee=guarantee, ceiling=ceiling)
    for word in words:
        assert word in str(refused.value)
    assert limits_of(node, "store") == before
    node.running.core.shards.composer.check()


def test_what_was_given_back_may_be_promised_again(node: Node) -> None:
    composer = node.running.core.shards.composer
    left = composer.left().memory_bytes
    assert left is not None
    node.resize("store", guarantee={"memory": "64MiB"})
    assert composer.left().memory_bytes == left - 32 * 2**20
    node.resize("store", guarantee={"memory": "16MiB"})
    assert composer.left().memory_bytes == left + 16 * 2**20
    composer.check()
