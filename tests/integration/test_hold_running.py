"""Shards that run are stopped and go on, and are held to processors, a chatty pair to one of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import shardwright
from namespaces_here import need_namespaces
from shardwright.errors import NodeError, SandboxError
from shardwright.model.ids import ShardId
from shardwright.node import Node
from shardwright.node._topology import read_topology
from shardwright.placement import CorePlacer, ShardNeed
from shardwright.sandbox import box_members
from shardwright.sandbox._linux._procfs import process_stat

MANIFEST = """
[app]
name = "held"
[policy]
transport = "{transport}"
[components.front]
code = "front"
isolation = "{isolation}"
[components.back]
code = "back"
isolation = "{isolation}"
"""
BACK = """
import ctypes

where = ctypes.CDLL(None).sched_getcpu


def echo(value):
    return value


def place():
    return where()
"""
FRONT = """
import ctypes
import os
import time

import back


def where():
    return ctypes.CDLL(None).sched_getcpu(), back.place()


def many(count):
    back.echo(0)
    begun = time.perf_counter()
    for number in range(count):
        back.echo(number)
    return (time.perf_counter() - begun) / count


def child():
    if os.fork() == 0:
        while True:
            time.sleep(0.001)
    return os.getpid()
"""
ISOLATIONS = ["process", "namespace"]


@pytest.fixture(params=ISOLATIONS)
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    if request.param == "namespace":
        need_namespaces()
    app = tmp_path / "app"
    app.mkdir()
    (app / "shardwright.toml").write_text(MANIFEST.format(isolation=request.param, transport="socket"))
    (app / "front.py").write_text(FRONT)
    (app / "back.py").write_text(BACK)
    with shardwright.start(app, state=tmp_path / "state") as node:
        yield node


def pid_of(node: Node, component: str) -> int:
    return next(s.pid for s in node.shards() if s.component == component)


def test_what_is_paused_stands_still_and_its_callers_wait(node: Node) -> None:
    with node.session("one") as session:
        session.call("front.child")
        pid = pid_of(node, "front")
        assert len(box_members(pid)) == 2
        (shard,) = node.pause("front")
        assert {process_stat(each).state for each in box_members(pid)} <= set("Tt")  # type: ignore[union-attr]
        answers: list[float] = []
        waiting = threading.Thread(target=lambda: answers.append(session.call("front.many", 1)))
        waiting.start()
        assert session.call("back.echo", 1) == 1, "others go on"
        waiting.join(0.3)
        assert waiting.is_alive() and not answers
        assert node.unpause("front") == (shard,)
        waiting.join(20)
        assert len(answers) == 1
        kinds = [entry.kind for entry in node.running.core.journal.tail(50) if entry.shard == shard]
        assert kinds.index("unpause") > kinds.index("pause")
        with pytest.raises(NodeError, match="did you mean 'front'"):
            node.pause("frnt")


def test_what_is_pinned_stays_there_with_all_that_it_starts(node: Node) -> None:
    with node.session("one") as session:
        session.call("front.many", 1)
        cpu = min(os.sched_getaffinity(0))
        (found,) = node.pin("front", [cpu]).values()
        assert found == {cpu}
        session.call("front.child")
        for member in box_members(pid_of(node, "front")):
            for task in os.listdir(f"/proc/{member}/task"):
                assert os.sched_getaffinity(int(task)) == {cpu}
        with pytest.raises(SandboxError, match="processors"):
            node.pin("front", [100_000])
        with pytest.raises(NodeError, match="no processor"):
            node.pin("front", [])


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one processor alone")
def test_a_chatty_pair_runs_on_the_core_it_is_given(node: Node, record_exercised: Callable[[str, int], None]) -> None:
    """By ``CorePlacer`` over this machine. How much faster that is says ``shardwright bench call``, not a test."""
    topology = read_topology()
    pair = ShardId("front"), ShardId("back")
    needs = [ShardNeed(pair[0], 0.1, 0.3), ShardNeed(pair[1], 0.1, 0.3), ShardNeed(ShardId("hog"), 0.5, 1.0)]
    homes = CorePlacer(topology).place(needs, {pair: 20_000}).homes
    together = homes[pair[0]].cpu
    assert homes[pair[1]].cpu == together != homes[ShardId("hog")].cpu
    apart = next(cpu.number for cpu in topology.cpus if cpu.number != together)
    times: dict[int, list[float]] = {together: [], apart: []}
    with node.session("one") as session:
        session.call("front.many", 1)
        node.pin("front", [together])
        for _ in range(5):
            for cpu in (together, apart):
                node.pin("back", [cpu])
                times[cpu].append(session.call("front.many", 200))
                assert session.call("front.where") == (together, cpu), "where their code runs"
    record_exercised("a call to a shard on the same core, ns", round(min(times[together]) * 1e9))
    record_exercised("a call to a shard on another core, ns", round(min(times[apart]) * 1e9))
