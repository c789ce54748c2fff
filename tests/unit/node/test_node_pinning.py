"""Rounds of moves between cores, as a node performs them: on boxes that have ended, that may not be moved, that people hold."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from shardwright import sandbox
from shardwright.errors import SandboxError
from shardwright.model.limits import Limits, Resources
from shardwright.node import _hold
from shardwright.node._pinning import Pinning
from shardwright.placement import Bank, Cpu, Topology

CORES = (0, 1, 2, 3)
PIDS = {"top-1": 2**22 + 1, "low-1": 2**22 + 2, "low-2": 2**22 + 3}  # above any pid that the kernel gives


class World:
    """Two components of which one is above the other, and cores are short."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.moved: list[tuple[int, frozenset[int]]] = []
        self.journal: list[tuple[str, str, str]] = []
        self.ended: set[int] = set()
        self.refused: set[int] = set()
        self.demand = 8.0
        monkeypatch.setattr(sandbox, "pin", self.pin)
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(CORES))
        self.components = {
            name: SimpleNamespace(usage=SimpleNamespace(priority=priority, latency_slo_s=slo))
            for name, priority, slo in (("top", 90, 0.02), ("low", 5, None))
        }
        self.records = [
            SimpleNamespace(id=shard, component=shard[:3], stopping=False, limits=Limits(Resources(), Resources()))
            for shard in PIDS
        ]
        ports = {shard: SimpleNamespace(pid=pid, shard=shard) for shard, pid in PIDS.items()}
        self.core: Any = SimpleNamespace(
            ports=lambda: ports, components=self.components, record=self.record, records=lambda: self.records,
            plan=SimpleNamespace(definitions=()),
            shards=SimpleNamespace(launcher=SimpleNamespace(isolation=lambda component: "process")),
        )  # fmt: skip
        observer: Any = SimpleNamespace(last=lambda shard: SimpleNamespace(demand=self.demand / len(PIDS)))
        self.pinning = Pinning(self.core, observer)
        self.core.control = SimpleNamespace(pinning=self.pinning)
        monkeypatch.setattr(
            _hold, "targets", lambda core, wanted: [r for r in self.records if wanted in (r.id, r.component)]
        )

    def pin(self, pid: int, cpus: Any) -> frozenset[int]:
        if pid in self.refused:
            raise SandboxError("it may not be moved")
        if pid in self.ended:
            return frozenset()
        self.moved.append((pid, frozenset(cpus)))
        return frozenset(cpus)

    def record(self, kind: str, reason: str, *, shard: str = "", component: str = "", inputs: Any = ()) -> None:
        self.journal.append((kind, shard, reason))

    def tick(self, now: float) -> list[tuple[int, frozenset[int]]]:
        self.moved.clear()
        self.pinning.tick(self.records, now)  # type: ignore[arg-type]
        return list(self.moved)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_boxes_are_moved_whole_and_let_go_again(world: World) -> None:
    assert {pid for pid, _ in world.tick(0.0)} == {PIDS["low-1"], PIDS["low-2"]}
    assert [kind for kind, _, _ in world.journal] == ["move", "move"]
    world.demand = 0.0
    assert {cpus for _, cpus in world.tick(100.0)} == {frozenset(CORES)}


def test_what_has_ended_is_no_refusal(world: World) -> None:
    world.ended.add(PIDS["low-1"])
    world.tick(0.0)
    assert [(kind, shard) for kind, shard, _ in world.journal] == [("move", "low-2")]
    world.refused.add(PIDS["low-1"])
    world.tick(1.0)
    assert world.journal[-1] == ("failure", "low-1", "it was not moved between cores: it may not be moved")
    told = len(world.journal)
    world.tick(2.0)
    assert len(world.journal) == told, "told once"


def test_a_release_that_is_refused_is_tried_again(world: World) -> None:
    world.tick(0.0)
    world.demand = 0.0
    world.refused.add(PIDS["low-1"])
    assert world.tick(100.0) == [(PIDS["low-2"], frozenset(CORES))]
    world.refused.clear()
    assert world.tick(101.0) == [(PIDS["low-1"], frozenset(CORES))]


def test_what_people_hold_is_left_where_it_is(world: World) -> None:
    assert asyncio.run(_hold.pin(world.core, "low-1", [0])) == {"low-1": {0}}
    assert {pid for pid, _ in world.tick(0.0)} == {PIDS["low-2"]}
    asyncio.run(_hold.pin(world.core, "low", [0]))
    world.demand = 0.0
    assert not world.tick(100.0)
    world.demand = 8.0
    world.pinning.forget("low-1")  # type: ignore[arg-type]
    assert {pid for pid, _ in world.tick(200.0)} == {PIDS["low-1"]}


def test_what_could_not_be_held_stays_with_the_rounds(world: World) -> None:
    world.refused.add(PIDS["low-1"])
    with pytest.raises(SandboxError):
        asyncio.run(_hold.pin(world.core, "low-1", [100_000]))
    world.refused.clear()
    assert {pid for pid, _ in world.tick(0.0)} == {PIDS["low-1"], PIDS["low-2"]}


def test_what_runs_in_the_node_itself_is_not_moved(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getpid", lambda: PIDS["low-1"])
    assert {pid for pid, _ in world.tick(0.0)} == {PIDS["low-2"]}


def test_what_is_left_to_the_highest_are_processors_of_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    cpus = tuple(Cpu(number, core=number % 2, cache=0, bank=0) for number in CORES)
    monkeypatch.setattr("shardwright.node._pinning.read_topology", lambda: Topology(cpus, (Bank(0, 0, {0: 10}),)))
    world = World(monkeypatch)
    world.demand = 4.0  # of the highest a third of it: two processors
    world.pinning.tick(world.records, 0.0)
    assert {cores for _, cores in world.moved} == {frozenset({1, 3})}, "0 and 2 are one core"


def test_what_is_lent_to_those_below_does_not_bring_them_back(world: World) -> None:
    world.pinning.tick(world.records, 0.0)  # type: ignore[arg-type]
    assert world.pinning.rounds.pinned
    lent = Limits(Resources(cpu=3.6), Resources())
    for record in world.records[1:]:
        record.limits = lent
    named = Pinning(world.core, world.pinning._observer, lambda record: Limits(Resources(cpu=0.1), Resources()))
    named.tick(world.records, 0.0)  # type: ignore[arg-type]
    assert named.rounds.pinned, "what was lent is given back, and is no reason to take the core from the highest"
    world.tick(1.0)
    assert not world.pinning.rounds.pinned, "what is guaranteed to them is"
