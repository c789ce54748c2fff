"""What isolation `auto` comes to on a machine: asked for once, told once, and given up only before anything started."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from shardwright.manifest import load
from shardwright.model.shard import ShardPlan
from shardwright.node._auto import AutoIsolations, by_analysis, wants_walls
from shardwright.sharding import plan

MANIFEST = '[app]\nname = "t"\n[components.sums]\ncode = "sums"\n[components.notes]\ncode = "notes"\n'


@pytest.fixture
def made(tmp_path: Path) -> ShardPlan:
    (tmp_path / "shardwright.toml").write_text(MANIFEST)
    (tmp_path / "sums.py").write_text("def add(a, b): return a + b\n")
    (tmp_path / "notes.py").write_text("def read(x): return open(x)\n")
    return plan(load(tmp_path, environment={}))


class Machine:
    """Counts how often it is asked for walls."""

    def __init__(self, trouble: str = "") -> None:
        self.trouble, self.asked = trouble, 0
        self.told: list[str] = []

    async def try_walls(self) -> str:
        self.asked += 1
        return self.trouble

    def isolations(self, never: str = "") -> AutoIsolations:
        return AutoIsolations(self.try_walls, self.told.append, never)


def _of(auto: AutoIsolations, made: ShardPlan) -> dict[str, str]:
    return {each.component: auto.of(each) for each in made.definitions if each.component in ("sums", "notes")}


def test_walls_where_analysis_says_so(made: ShardPlan) -> None:
    machine = Machine()
    auto = machine.isolations()
    asyncio.run(auto.settle(made))
    asyncio.run(auto.settle(made))
    assert _of(auto, made) == {"sums": "namespace", "notes": "process"}
    assert (machine.asked, machine.told) == (1, [])


def test_a_machine_without_walls_is_told_once(made: ShardPlan) -> None:
    machine = Machine("no namespaces")
    auto = machine.isolations()
    for _ in range(3):
        asyncio.run(auto.settle(made))
    assert _of(auto, made) == {"sums": "process", "notes": "process"}
    assert machine.asked == len(machine.told) == 1 and "no namespaces" in machine.told[0]


def test_nobody_asks_where_nothing_comes_to_walls(made: ShardPlan) -> None:
    stated = replace(made, definitions=tuple(replace(each, isolation="process") for each in made.definitions))
    machine = Machine("no namespaces")
    asyncio.run(machine.isolations().settle(stated))
    assert (machine.asked, machine.told, wants_walls(stated)) == (0, [], False)
    walled = replace(made.definition("notes"), isolation="namespace")
    assert by_analysis(walled) == machine.isolations("whatever").of(walled) == "namespace", "what is stated stays"


def test_a_coverage_run_has_no_walls(made: ShardPlan) -> None:
    machine = Machine()
    auto = machine.isolations("coverage is kept in files")
    asyncio.run(auto.settle(made))
    assert _of(auto, made) == {"sums": "process", "notes": "process"}
    assert (machine.asked, machine.told) == (0, [])


def test_walls_are_given_up_once_and_never_after_a_start(made: ShardPlan) -> None:
    machine = Machine()
    auto = machine.isolations()
    sums, notes = made.definition("sums"), made.definition("notes")
    assert not auto.give_up(notes, "it failed"), "it had none"
    assert not auto.give_up(replace(sums, isolation="namespace"), "it failed")
    assert auto.give_up(sums, "it failed") and auto.of(sums) == "process"
    assert not auto.give_up(sums, "it failed again") and len(machine.told) == 1
    other = machine.isolations()
    other.started(sums.component)
    assert not other.give_up(sums, "it failed later") and other.of(sums) == "namespace"
