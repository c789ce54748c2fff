"""Version 2 against a real mount of it, as far as one without cpu and memory controllers goes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardwright.contracts.sandbox import LaunchSpec
from shardwright.errors import SandboxError
from shardwright.model.ids import ShardId
from shardwright.model.limits import Limits, Resources
from shardwright.sandbox._linux import _procfs
from shardwright.sandbox._linux._cgroup_v2 import CgroupV2, _make_room
from shardwright.sandbox._linux._files import ControlFiles
from shardwright.sandbox._linux._mounts import hierarchies
from shardwright.sandbox.process import ProcessBackend
from shardwright.testing import SANDBOX_CHECKS, SandboxCheck, check_sandbox_backend

OWNER = f"shardwright-{os.getpid()}-{_procfs.start_ticks(os.getpid())}"


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder of our own on the version 2 mount."""
    top = hierarchies("/sys/fs/cgroup", "/proc").unified
    folder = Path(top) / f"sandbox-test-{os.getpid()}"
    if not top:
        pytest.skip("no version 2 control groups are mounted")
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"version 2 control groups are not permitted here: {error}")
    try:
        yield folder
    finally:
        for path, _, _ in os.walk(folder, topdown=False):
            Path(path).rmdir()


def bare(base: Path) -> CgroupV2:
    groups = CgroupV2.prepare(str(base), str(base), OWNER, bare=True)
    assert isinstance(groups, CgroupV2), groups
    return groups


def spec(script: str) -> LaunchSpec:
    return LaunchSpec(ShardId("v2-1"), ("/bin/sh", "-c", script), {"PATH": "/usr/bin:/bin"}, "/")


def populated(folder: Path) -> bool:
    return "populated 1" in (folder / "cgroup.events").read_text()


@pytest.mark.parametrize(
    "check", [check for check in SANDBOX_CHECKS if not check.needs], ids=lambda check: check.name.replace(" ", "-")
)
def test_conformance_by_membership_alone(base: Path, check: SandboxCheck) -> None:
    assert check_sandbox_backend(lambda: ProcessBackend(bare(base)), only=check.name) == (check.name,)


def test_kill_catches_those_that_left_the_session(base: Path) -> None:
    backend = ProcessBackend(bare(base))
    read_end, write_end = os.pipe()
    try:
        script = "setsid sh -c 'setsid sleep 1000 & echo; exec sleep 1000' & exec sleep 1000"
        launch = spec(script)
        sandbox = backend.launch(
            LaunchSpec(launch.shard, launch.arguments, launch.environment, "/", {1: write_end}, max_pids=9)
        )
        try:
            os.read(read_end, 1)
            folder = Path(sandbox.handle.control_groups[0])
            assert folder == base / OWNER / "v2-1"
            assert (folder / "cgroup.kill").exists(), "this kernel is too old for what this test is about"
            assert populated(folder)
            family = [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
            assert len(family) >= 3
            sandbox.kill()
        finally:
            sandbox.delete()
        assert not folder.exists()
        for pid in family:
            stat = _procfs.process_stat(pid)
            assert stat is None or stat.state == "Z", stat
        backend.reap_orphans()
    finally:
        os.close(read_end)
        os.close(write_end)
        backend.close()
    assert not (base / OWNER).exists()


def test_controllers_that_are_not_there_are_named(base: Path) -> None:
    offered = (base / "cgroup.controllers").read_text().split()
    if {"cpu", "memory", "pids"} & set(offered):
        pytest.skip("this mount has the controllers")
    assert CgroupV2.prepare(str(base), str(base), OWNER) == f"{base}: offers none of cpu, memory, pids"
    assert not (base / OWNER).exists()
    groups = bare(base)
    group = groups.create("web-1", Limits(ceiling=Resources(cpu=0.5)), 10)
    assert group is not None
    try:
        assert group.read_back() == Limits()
        assert group.usage() is None
        with pytest.raises(SandboxError, match="there already"):
            groups.create("web-1", Limits(), 10)
        assert groups.open(group.paths) is not None
        assert groups.open(["/sys/fs/cgroup"]) is None
    finally:
        assert group.remove(1.0)
        groups.close()


def test_room_is_made_only_in_a_group_that_is_ours(base: Path) -> None:
    """A group that hands controllers down may hold no processes: ours move one down, those of others stay."""

    def room_in_child() -> int:
        pid = os.fork()
        if pid == 0:
            files = ControlFiles(str(base))
            try:
                files.write("cgroup.procs", "0")
                made = _make_room(files)
                inside = (base / "shardwright.members" / "cgroup.procs").exists() and str(os.getpid()) in (
                    base / "shardwright.members" / "cgroup.procs"
                ).read_text().split()
                os._exit(10 * made + inside)
            finally:
                os._exit(99)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    sleeper = os.fork()
    if sleeper == 0:
        signal.pause()
        os._exit(0)
    try:
        (base / "cgroup.procs").write_text(str(sleeper))
        assert room_in_child() == 0
    finally:
        os.kill(sleeper, signal.SIGKILL)
        os.waitpid(sleeper, 0)
    assert room_in_child() == 11


def test_room_is_made_in_a_delegated_group(base: Path) -> None:
    """systemd marks what it delegates; there everything inside is moved."""
    try:
        os.setxattr(base, "user.delegate", b"1")
    except OSError as error:
        pytest.skip(f"this kernel keeps no marks on control groups: {error}")
    sleeper = os.fork()
    if sleeper == 0:
        signal.pause()
        os._exit(0)
    files = ControlFiles(str(base))
    try:
        (base / "cgroup.procs").write_text(str(sleeper))
        assert _make_room(files)
        assert (base / "shardwright.members" / "cgroup.procs").read_text().split() == [str(sleeper)]
        assert (base / "cgroup.procs").read_text() == ""
    finally:
        files.close()
        os.kill(sleeper, signal.SIGKILL)
        os.waitpid(sleeper, 0)


def test_sweep(base: Path) -> None:
    groups = bare(base)
    ticks = (_procfs.start_ticks(os.getpid()) or 0) + 1
    # our own name, with a start time that no process of this pid has
    dead = base / f"shardwright-{os.getpid()}-{ticks}"
    (dead / "web-1").mkdir(parents=True)
    sleeper = os.fork()
    if sleeper == 0:
        signal.pause()
        os._exit(0)
    try:
        (dead / "web-1" / "cgroup.procs").write_text(str(sleeper))
        assert groups.sweep(alive=[dead.name]) == ()
        assert groups.sweep() == (str(dead),)
        assert os.waitstatus_to_exitcode(os.waitpid(sleeper, 0)[1]) == -signal.SIGKILL
        assert (base / OWNER).is_dir()
    finally:
        groups.close()
    assert not dead.exists()
