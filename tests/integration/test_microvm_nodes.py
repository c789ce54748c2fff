"""Shards at isolation ``microvm``, with a stand-in for the machine alone: everything around it is real.

One node serves all checks. What takes a machine is tried by ``scripts/machines``.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from guest_apps import journal_rows, running, write_application
from machine_standin import missing_for_disks, write_monitor
from shardwright.errors import ShardLost, StartFailed

pytestmark = pytest.mark.skipif(bool(missing_for_disks()), reason=f"no {missing_for_disks()} on this machine")
MANIFEST = """
[app]
name = "machines"
[components.near]
code = "near"
[components.far]
code = "far"
isolation = "microvm"
limits = { memory = "192MiB" }
"""
NEAR = """
import far

def ask(size):
    return len(far.echo(bytes(size)))

def double(number):
    return 2 * number
"""
FAR = """
import os, sys
import near

def echo(data):
    return data

def back(number):
    return near.double(number)

def say(text):
    print(text, flush=True)
    return os.getpid()

def end(status):
    os._exit(status)
"""


@pytest.fixture(scope="module")
def monitor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_monitor(tmp_path_factory.mktemp("monitor"))


def _environment(monitor: Path) -> dict[str, str]:
    return {
        **os.environ,
        "SHARDWRIGHT_MICROVM": str(monitor),
        "SHARDWRIGHT_KERNEL": str(monitor.parent / "kernel"),
        "XDG_CACHE_HOME": str(monitor.parent / "cache"),
    }


def test_shards_are_reached_through_a_bridge(
    tmp_path: Path, monitor: Path, record_exercised: Callable[[str, int], None]
) -> None:
    folder = write_application(tmp_path / "app", MANIFEST, near=NEAR, far=FAR)
    with running(folder, environment=_environment(monitor)) as node, node.session("one") as session:
        sizes = (0, 64, 4096, 100_000, 3_000_000)
        for size in sizes:
            assert session.call("near.ask", size) == size, "from shard to shard"
        assert session.call("far.back", 21) == 42, "and back"
        record_exercised("calls over a bridge into a stand-in of a machine", len(sizes) + 2)
        found = {shard.component: shard for shard in node.shards()}
        assert (found["far"].isolation, found["far"].transport) == ("microvm", "virtio-serial")
        assert found["near"].transport in ("shm", "socket")
        assert found["far"].start.startswith("spawn")
        inner = session.call("far.say", "heard out here")
        outer = found["far"].pid
        assert inner != outer and psutil.pid_exists(outer)

        with pytest.raises(ShardLost, match="exited with status 7"):
            session.call("far.end", 7)
        with node.session("two") as other:
            assert other.call("far.echo", "another") == "another"
            (again,) = [shard for shard in node.shards() if shard.component == "far"]
            os.kill(again.pid, signal.SIGKILL)  # its runner, and with it all that it held
            while again.id in {shard.id for shard in node.shards()}:
                with contextlib.suppress(ShardLost):  # a call that it was about to answer
                    other.call("far.echo", "x")
        with node.session("three") as last:
            assert last.call("near.ask", 5) == 5
    assert not psutil.pid_exists(inner)
    assert any("status 7" in reason for *_, reason in journal_rows(folder))


def test_a_machine_that_fails_is_told_with_its_last_words(tmp_path: Path, monitor: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no memory for guests today\nexit 3\n")
    broken.chmod(0o755)
    folder = write_application(tmp_path / "app", MANIFEST, near=NEAR, far=FAR)
    environment = {**_environment(monitor), "SHARDWRIGHT_MICROVM": str(broken)}
    with pytest.raises(StartFailed) as told, running(folder, environment=environment):
        pass
    assert "the machine ended by itself, with 3" in "\n".join(told.value.log)
    assert "no memory for guests today" in "\n".join(told.value.log)
    assert "exited with status 70" in told.value.message


def test_without_a_kernel_nothing_is_started_and_it_is_said_what_to_do(tmp_path: Path, monitor: Path) -> None:
    folder = write_application(tmp_path / "app", MANIFEST, near=NEAR, far=FAR)
    environment = {**_environment(monitor), "SHARDWRIGHT_KERNEL": str(tmp_path)}
    with pytest.raises(StartFailed, match="no kernel with modules"), running(folder, environment=environment):
        pass
