"""Many starts and ends, one in ten by force at any moment of a start, templates killed in between: nothing is left behind.

``SWT_LONG=1 ./scripts/test tests/fault/test_fault_many_starts.py`` makes 5,000 of each kind; the suite fewer, by a fixed seed.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import shardwright
from namespaces_here import need_namespaces
from shardwright.errors import ShardwrightError
from shardwright.node import Node
from shardwright.sandbox._linux._procfs import children
from shardwright.testing._faults import becomes, control_groups, processes_marked

LONG = os.environ.get("SWT_LONG") == "1"
STARTS = 5_000 if LONG else 120
ONE_IN = 10
TEMPLATE_ONE_IN = 6  # of those that are ended by force
GRACE_S = 15.0
Record = Callable[[str, int], None]


def application(folder: Path, isolation: str) -> Path:
    folder.mkdir()
    (folder / "shardwright.toml").write_text(
        f'[app]\nname = "many"\n[components.brief]\ncode = "brief"\nisolation = "{isolation}"\nscope = "session"\n'
        'env = ["SWT_MARK"]\nwarm = { min = 0, max = 0 }\nlimits = { cpu = 2.0, memory = "256MiB" }\n'
    )
    (folder / "brief.py").write_text("def ping(value):\n    return value + 1\n")
    return folder


def templates(node: Node) -> list[int]:
    return [t.port.pid for t in list(node.running.core.launcher._templates.values())]  # type: ignore[union-attr]


def of_another(folder: str) -> bool:
    """Whether it is named after another process that is there: a node beside this test makes groups as well."""
    owner = Path(folder).name.split("-")[1]
    return owner != str(os.getpid()) and Path("/proc", owner).exists()


class Killer(threading.Thread):
    """Ends a fork of a template by force whenever so many more starts were begun; now and then a template."""

    def __init__(self, node: Node, chance: random.Random) -> None:
        super().__init__(daemon=True)
        self.node, self.chance = node, chance
        self.begun = 0
        self.over = False
        self.forks = self.templates = 0

    def run(self) -> None:
        due = ONE_IN // 2
        while not self.over:
            if self.begun < due:
                time.sleep(0.0005)
                continue
            time.sleep(self.chance.uniform(0.0, 0.02))
            if (self.forks + self.templates) % TEMPLATE_ONE_IN == TEMPLATE_ONE_IN - 1:
                killed = self._kill(templates(self.node))
                self.templates += killed
            else:
                killed = self._kill([pid for template in templates(self.node) for pid in children(template)])
                self.forks += killed
            due += ONE_IN * killed  # where nobody was there to end, the next that is

    def _kill(self, pids: list[int]) -> int:
        if not pids:
            return 0
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.chance.choice(pids), signal.SIGKILL)
            return 1
        return 0


@pytest.mark.slow
@pytest.mark.timeout(3600 if LONG else 120)
@pytest.mark.parametrize("isolation", ["process", "namespace"])
def test_many_starts_and_ends_leave_nothing(
    tmp_path: Path, isolation: str, record_exercised: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isolation == "namespace":
        need_namespaces()
    mark = f"swt-{uuid.uuid4().hex}"
    monkeypatch.setenv("SWT_MARK", mark)
    groups_before, mounts_before = control_groups(), Path("/proc/self/mountinfo").read_text()
    answered: list[int] = []
    failed: list[str] = []
    with shardwright.start(application(tmp_path / isolation, isolation), state=tmp_path / "state") as node:
        killer = Killer(node, random.Random(20261122))
        killer.start()

        def one(number: int) -> None:
            killer.begun += 1
            try:
                with node.session(f"brief-{number}") as session:
                    answered.append(session.call("brief.ping", number))
            except ShardwrightError as error:
                failed.append(str(error))

        try:
            with ThreadPoolExecutor(3) as pool:
                list(pool.map(one, range(STARTS)))
        finally:
            killer.over = True
            killer.join(10)
        assert not killer.is_alive()
        alone = becomes(lambda: not [s for s in node.shards() if s.component == "brief"], GRACE_S)
        assert alone is not None, node.shards()
        with node.session("after") as session:
            assert session.call("brief.ping", 1) == 2, "it goes on"
    killed = (
        killer.forks + 6 * killer.templates
    )  # a template takes along what was being forked of it, a fork ahead, too
    assert len(failed) <= killed, f"{len(failed)} failed of {killer.forks} kills: {failed[:5]}"
    assert len(answered) + len(failed) >= STARTS
    assert set(answered) <= set(range(1, STARTS + 1)) and len(set(answered)) == len(answered)
    assert killer.templates > 0
    assert killer.forks + killer.templates >= STARTS // ONE_IN, "one in ten is promised"

    def left() -> list[str]:
        folders = [folder for folder in control_groups() - groups_before if not of_another(folder)]
        return [*processes_marked(mark).values(), *folders]

    assert becomes(lambda: not left(), GRACE_S) is not None, left()
    assert Path("/proc/self/mountinfo").read_text() == mounts_before
    record_exercised(f"starts and ends, {isolation}", STARTS)
    record_exercised(f"forks ended by force, {isolation}", killer.forks)
    record_exercised(f"templates ended by force, {isolation}", killer.templates)
