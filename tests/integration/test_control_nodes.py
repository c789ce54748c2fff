"""The controller's loop in real nodes: guarantees follow demand, instances come and go, and what fails harms nobody."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from limits_here import need_limits
from shardwright.controller import ScaleParams
from shardwright.errors import SandboxError
from shardwright.model.ids import ShardId
from shardwright.model.limits import Limits, Usage
from shardwright.node import Node, Options, Running
from shardwright.sandbox.process import ProcessBackend
from shardwright.simulation import replay_recording
from waiting import eventually

MANIFEST = """
[app]
name = "controlled"
[components.burn]
code = "burn"
resources = { cpu = 0.1, memory = "16MiB" }
limits = { cpu = 1.0, memory = "96MiB" }
[components.many]
code = "many"
scale = { min = 0, max = 3, target_concurrency = 1 }
[policy]
tick = "50ms"
"""
CODE = """
import os, time

def spin(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return os.getpid()

def rest(seconds):
    time.sleep(seconds)
    return os.getpid()
"""


def begun(tmp_path: Path, **options: object) -> Running:
    app = tmp_path / "app"
    app.mkdir(exist_ok=True)
    (app / "shardwright.toml").write_text(MANIFEST)
    for name in ("burn", "many"):
        (app / f"{name}.py").write_text(CODE)
    return Running(app, Options(state=tmp_path / "state", api=False, **options))  # type: ignore[arg-type]


def instances(running: Running) -> int:
    return sum(record.component == "many" and not record.stopping for record in running.core.records())


def test_limits_and_instances_follow_demand_and_replay(tmp_path: Path) -> None:
    need_limits()
    running = begun(tmp_path, record=tmp_path / "recorded")
    with Node(running) as node, node.session("s") as session:
        control = running.core.control
        control.scale.params = ScaleParams(stable_s=0.5, panic_s=0.2, idle_s=0.5)

        def given() -> float:
            return next(s.guarantee_cpu or 0.0 for s in node.shards() if s.component == "burn")

        done = threading.Event()

        def busy() -> None:
            while not done.is_set():
                session.call("burn.spin", 0.05)

        thread = threading.Thread(target=busy)
        thread.start()
        assert eventually(lambda: given() > 0.12), "it takes more than it is guaranteed"
        done.set()
        thread.join()
        row = running.core.journal.tail(50, kind="resize")[-1]
        assert row.component == "burn"
        assert {"usage_cpu", "kept_from_cpu", "capacity_cpu"} <= row.inputs.keys()
        assert running.core.journal.find(row.sequence) == row
        # what people set is the floor from then on
        node.resize("burn", guarantee={"cpu": 0.3})
        assert control.limiting.bounds
        # instances: more while calls wait, none when nobody calls, and again when somebody does
        callers = [threading.Thread(target=session.call, args=("many.rest", 1.5)) for _ in range(4)]
        for caller in callers:
            caller.start()
        assert eventually(lambda: instances(running) == 3)
        for caller in callers:
            caller.join()
        assert eventually(lambda: not any(r.component == "many" for r in running.core.records()))
        pids = {session.call("many.rest", 0) for _ in range(3)}
        assert len(pids) == 1, "whoever asks waits for the one that is launched"
    assert (tmp_path / "state" / "histories.json").exists()
    replayed = replay_recording(tmp_path / "recorded")
    assert replayed.same, replayed.differences
    assert replayed.limit_steps >= 1
    assert replayed.scale_changes >= 2


LENT = """
[app]
name = "lent"
[components.burn]
code = "burn"
resources = {{ cpu = 0.1, memory = "16MiB" }}
limits = {{ cpu = 1.0, memory = "96MiB" }}
[components.seat]
code = "seat"
scope = "session"
resources = {{ cpu = 0.4, memory = "16MiB" }}
[policy]
tick = "50ms"
reserve = {{ cpu = {reserve} }}
"""


def test_what_was_lent_goes_back_before_anybody_is_refused(tmp_path: Path) -> None:
    need_limits()
    backend = ProcessBackend()
    cores = backend.capacity().cpu or 0.0
    backend.close()
    app = tmp_path / "app"
    app.mkdir()
    (app / "shardwright.toml").write_text(LENT.format(reserve=cores - 1.0))
    for name in ("burn", "seat"):
        (app / f"{name}.py").write_text(CODE)
    with Node(Running(app, Options(state=tmp_path / "state", api=False))) as node, node.session("first") as first:
        core = node.running.core
        done = threading.Event()

        def busy() -> None:
            while not done.is_set():
                first.call("burn.spin", 0.05)

        thread = threading.Thread(target=busy)
        thread.start()
        try:  # of one core the first session's seat has 0.4, and burn all that is not kept free
            assert eventually(lambda: (core.shards.composer.left().cpu or 0.0) < 0.4)
            with node.session("second", timeout_s=20) as second:
                assert second.call("seat.rest", 0)
        finally:
            done.set()
            thread.join()
        reasons = [row.reason for row in core.journal.tail(100, kind="resize")]
        assert "it gives back what was lent to it: others wait for room" in reasons
        core.shards.composer.check()


def test_what_fails_harms_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_limits()
    running = begun(tmp_path)
    with Node(running) as node, node.session("s") as session:
        core = running.core
        launcher = core.launcher
        assert launcher is not None
        real = launcher.usages
        seen: list[str] = []

        async def absurd(shards: list[ShardId]) -> Mapping[str, Usage | None]:
            kind = ("nothing", "nan", "error", "defect", "true")[len(seen) % 5]
            seen.append(kind)
            match kind:
                case "nothing":
                    return dict.fromkeys(shards)
                case "nan":
                    return {shard: Usage(math.nan, -5) for shard in shards}
                case "error":
                    raise SandboxError("nobody knows")
                case "defect":
                    raise RuntimeError("a defect")
            return await real(shards)

        async def refused(shard: ShardId, limits: Limits) -> Limits:
            refusals.append(shard)
            raise SandboxError("the machine says no")

        refusals: list[str] = []
        monkeypatch.setattr(launcher, "usages", absurd)
        monkeypatch.setattr(launcher, "resize", refused)
        before = core.shards.composer.reserved()
        stop = threading.Event()

        def busy() -> None:
            while not stop.is_set():
                session.call("burn.spin", 0.02)

        thread = threading.Thread(target=busy)
        thread.start()
        assert eventually(lambda: len(refusals) > 0 and len(seen) > 20)
        stop.set()
        thread.join()
        assert core.shards.composer.reserved() == before, "what was not applied is not booked"
        assert len(refusals) <= 2, "a step that failed is not tried again at once"
        failures = [row.reason for row in core.journal.tail(200, kind="failure")]
        assert any("the machine says no" in reason for reason in failures)
        assert any("a defect" in reason for reason in failures)
        assert len(failures) < 10, "the same trouble is told once"
        assert session.call("burn.rest", 0)
    assert "shardwright.node._control" in sys.modules
