"""After the sudden death of the node or of its keeper nothing remains: whatever the guests were doing, at any moment."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import shardwright
from shardwright.errors import CallError
from shardwright.sandbox._linux._procfs import children
from shardwright.testing._faults import becomes, control_groups, members, processes_marked

HERE = Path(__file__).parent
RUNNER = HERE / "apps" / "run_under_load.py"
STUBBORN = HERE / "apps" / "stubborn"
LEDGER = HERE / "apps" / "ledger"
SOURCE = Path(shardwright.__file__).parents[1]
WITHIN_S = 15.0
MOMENTS = 10
Record = Callable[[str, int], None]


class Running:
    """A node in a process of its own. It and all of its guests carry ``mark`` in their environment."""

    def __init__(self, state: Path, app: Path = STUBBORN) -> None:
        self.mark = f"swt-{uuid.uuid4().hex}"
        self.groups_before = control_groups()
        self.keepers: set[int] = set()
        environment = os.environ | {"SWT_MARK": self.mark, "PYTHONPATH": str(SOURCE)}
        self.errors = (state / f"{self.mark}.err").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, str(RUNNER), str(app), str(state)],
            env=environment, stdout=subprocess.PIPE, stderr=self.errors, text=True,
        )  # fmt: skip

    def until(self, line: str, timeout_s: float = 40.0) -> str:
        """Read on until a line that begins so; returns it."""
        assert self.process.stdout is not None
        for text in self.process.stdout:
            if text.startswith(line):
                return text.strip()
        raise AssertionError(f"it ended before {line!r}: {Path(self.errors.name).read_text()[-3000:]}")

    def others(self) -> dict[int, str]:
        found = processes_marked(self.mark)
        found.pop(self.process.pid, None)
        # keeper and guard have none of the node's environment: they are known since they were its child, and that one's
        for pid in [pid for child in children(self.process.pid) for pid in (child, *children(child))]:
            self.keepers |= {pid} if "node._keeper" in command_of(pid) else set()
        return found | {pid: command for pid in self.keepers if "node._keeper" in (command := command_of(pid))}

    def guard(self) -> int | None:
        """The upper one of the pair that the keeper is."""
        pair = {pid for pid, command in self.others().items() if "node._keeper" in command}
        return next(iter(pair - {child for pid in pair for child in children(pid)}), None)

    def keeper(self) -> int | None:
        guard = self.guard()
        return next((pid for pid in children(guard) if "node._keeper" in command_of(pid)), None) if guard else None

    def guests(self) -> dict[int, str]:
        return {pid: command for pid, command in self.others().items() if "node._keeper" not in command}

    def groups(self) -> set[str]:
        """Control groups that came with it and hold nobody else's processes."""
        return {group for group in control_groups() - self.groups_before if not self.strangers(group)}

    def strangers(self, group: str) -> bool:
        found = members([group])
        owner = Path(group).name.split("-")[1:2]
        alive = bool(owner) and owner[0].isdigit() and Path("/proc", owner[0]).exists()
        return bool(found - set(self.others())) or (alive and int(owner[0]) != self.keeper())

    def left(self) -> list[str]:
        return [f"{pid} {command}" for pid, command in self.others().items()] + sorted(self.groups())

    def end(self) -> None:
        for pid in (self.process.pid, *self.others()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.errors.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[[], Running]]:
    started: list[Running] = []

    def start() -> Running:
        started.append(Running(tmp_path))
        return started[-1]

    try:
        yield start
    finally:
        for one in started:
            one.end()


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


def reach(node: Running, moment: int, chance: random.Random) -> None:
    """Some moment of its life: while it starts, when it is ready, under load."""
    if moment % 5 == 0:
        node.until("begun")
        time.sleep(chance.uniform(0.0, 1.0))
    elif moment % 5 == 1:
        node.until("ready")
    else:
        node.until("working")
        time.sleep(chance.uniform(0.0, 1.0))
    node.keeper()  # seen while it is the node's child


def kill(*pids: int | None) -> None:
    for pid in pids:
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(MOMENTS))
def test_nothing_outlives_a_killed_node(running: Callable[[], Running], moment: int, record_exercised: Record) -> None:
    node = running()
    reach(node, moment, random.Random(moment))
    record_exercised("guests of killed nodes", len(node.guests()))
    kill(node.process.pid)
    node.process.wait(5)
    assert becomes(lambda: not node.left(), WITHIN_S) is not None, node.left()
    record_exercised("nodes killed", 1)


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(MOMENTS))
def test_a_node_whose_keeper_was_killed_says_so_and_ends(
    running: Callable[[], Running], moment: int, record_exercised: Record
) -> None:
    node = running()
    reach(node, moment, random.Random(100 + moment))
    assert becomes(node.keeper, 20) is not None
    record_exercised("guests of killed keepers", len(node.guests()))
    kill(node.guard() if moment % 3 == 1 else node.keeper())
    assert becomes(lambda: not node.left(), WITHIN_S) is not None, node.left()
    assert node.process.wait(20) in (1, 3)
    assert node.process.stdout is not None
    said = node.process.stdout.read() + Path(node.errors.name).read_text()
    assert "NodeError" in said and "keeper" in said, said
    record_exercised("keepers killed", 1)


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(MOMENTS))
def test_when_both_are_killed_the_next_start_sweeps_what_is_left(
    running: Callable[[], Running], moment: int, tmp_path: Path, record_exercised: Record
) -> None:
    node = running()
    reach(node, moment, random.Random(200 + moment))
    everyone = [node.keeper(), node.guard(), node.process.pid]
    if not node.groups():  # without control groups, somebody must be left to know what is ours
        everyone.pop(moment % 3 == 1)
    if moment % 2:
        everyone.reverse()
    kill(*everyone)
    node.process.wait(5)
    in_group = lambda: {pid: c for pid, c in node.others().items() if pid in members(control_groups())}  # noqa: E731
    alone = lambda: {pid: c for pid, c in node.others().items() if pid not in in_group()}  # noqa: E731
    assert becomes(lambda: not alone(), WITHIN_S) is not None, "outside of control groups nobody could find them again"
    with shardwright.start(LEDGER, state=tmp_path / "next"):
        assert becomes(lambda: not node.left(), WITHIN_S) is not None, node.left()
    record_exercised("nodes killed with their keepers", 1)


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_shards_outlive_their_template_and_the_next_launch_makes_a_new_one(
    tmp_path: Path, moment: int, record_exercised: Record
) -> None:
    chance = random.Random(moment)
    with shardwright.start(STUBBORN, state=tmp_path) as node, node.session("stays") as session:
        before = session.call("plain.process")
        launcher = node.running.core.launcher
        template = launcher._templates["plain"].port.pid  # type: ignore[union-attr]
        time.sleep(chance.uniform(0, 0.05))
        kill(template)
        for number in range(4):  # more than were warm
            with node.session(f"comes-{number}") as other:
                assert other.call("plain.process") != before
        assert session.call("plain.process") == before, "the shard lives on"
        kill(before)
        with contextlib.suppress(CallError):
            session.call("plain.process")
        assert session.call("plain.process") != before
        assert launcher._templates["plain"].port.pid != template  # type: ignore[union-attr]
    record_exercised("templates killed", 1)
