"""What is written to the files of both versions, against folders with the kernel's file names and formats.

On machines whose controllers are those of one version, this is what checks the other.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from shardwright.errors import SandboxError
from shardwright.model.limits import Limits, Resources, Usage
from shardwright.sandbox._linux import _cgroup
from shardwright.sandbox._linux._cgroup_v1 import CgroupV1, GroupV1
from shardwright.sandbox._linux._cgroup_v2 import CgroupV2, GroupV2
from shardwright.sandbox._linux._files import ControlFiles, Step, apply

MIB = 1 << 20
V2_FILES = {
    "cgroup.procs": "",
    "cpu.max": "max 100000",
    "cpu.max.burst": "0",
    "cpu.weight": "100",
    "cpu.stat": "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\nnr_periods 9\nnr_throttled 3\n"
    "throttled_usec 750000\nnr_bursts 0\nburst_usec 0",
    "memory.current": str(50 * MIB),
    "memory.max": "max",
    "memory.low": "0",
    "memory.swap.max": "max",
    "memory.stat": f"anon {30 * MIB}\nfile {20 * MIB}\ninactive_file {15 * MIB}\nactive_file {5 * MIB}",
    "memory.events": "low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 0",
    "pids.current": "5",
    "pids.max": "max",
}
V1_FILES = {
    "cgroup.procs": "",
    "cpu.shares": "1024",
    "cpu.cfs_period_us": "100000",
    "cpu.cfs_quota_us": "-1",
    "cpu.cfs_burst_us": "0",
    "cpu.stat": "nr_periods 8\nnr_throttled 2\nthrottled_time 1500000000",
    "cpuacct.usage": "2500000000",
    "memory.usage_in_bytes": str(50 * MIB),
    "memory.limit_in_bytes": "9223372036854771712",
    "memory.memsw.limit_in_bytes": "9223372036854771712",
    "memory.soft_limit_in_bytes": "9223372036854771712",
    "memory.stat": f"cache 1\ninactive_file 7\ntotal_inactive_file {15 * MIB}",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3",
    "pids.current": "5",
    "pids.max": "max",
}


def folder_of(path: Path, files: Mapping[str, str], *without: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        if name not in without:
            (path / name).write_text(text + "\n")
    return path


def first_line(path: Path) -> str:
    return path.read_text().splitlines()[0]


def v2(path: Path, *without: str) -> GroupV2:
    return GroupV2(str(folder_of(path, V2_FILES, *without)), ("cpu", "memory", "pids"))


def v1(path: Path, *without: str) -> GroupV1:
    folder = str(folder_of(path, V1_FILES, *without))
    return GroupV1(dict.fromkeys(("pids", "cpu", "memory", "cpuacct"), folder))


LIMITS = Limits(Resources(cpu=0.5, memory_bytes=32 * MIB), Resources(cpu=1.5, memory_bytes=64 * MIB))


def test_v2_limits_are_written_and_read_back(tmp_path: Path) -> None:
    group = v2(tmp_path)
    try:
        assert group.apply(LIMITS, max_pids=9) == LIMITS
        written = {name: first_line(tmp_path / name) for name in V2_FILES if name != "cgroup.procs"}
    finally:
        group.close()
    assert written["cpu.weight"] == "50"
    assert written["cpu.max"] == "150000 100000"
    assert written["cpu.max.burst"] == "25000"
    assert written["memory.max"] == str(64 * MIB)
    assert written["memory.low"] == str(32 * MIB)
    assert written["memory.swap.max"] == "0"
    assert written["pids.max"] == "9"


def test_v1_limits_are_written_and_read_back(tmp_path: Path) -> None:
    group = v1(tmp_path)
    try:
        assert group.apply(LIMITS, max_pids=9) == LIMITS
        written = {name: first_line(tmp_path / name) for name in V1_FILES if name != "cgroup.procs"}
    finally:
        group.close()
    assert written["cpu.shares"] == "512"
    assert written["cpu.cfs_quota_us"] == "150000"
    assert written["cpu.cfs_burst_us"] == "25000"
    assert written["memory.limit_in_bytes"] == written["memory.memsw.limit_in_bytes"] == str(64 * MIB)
    assert written["memory.soft_limit_in_bytes"] == str(32 * MIB)
    assert written["pids.max"] == "9"


@pytest.mark.parametrize("make", [v1, v2])
def test_unstated_amounts_stay(tmp_path: Path, make: type) -> None:
    group = make(tmp_path, "cpu.max.burst", "cpu.cfs_burst_us", "memory.swap.max", "memory.memsw.limit_in_bytes")
    try:
        assert group.read_back() == Limits(), "nobody guaranteed what the kernel begins with"
        group.apply(LIMITS)
        changed = group.apply(Limits(ceiling=Resources(cpu=0.25)))
    finally:
        group.close()
    assert changed == Limits(LIMITS.guarantee, Resources(cpu=0.25, memory_bytes=64 * MIB))


@pytest.mark.parametrize("make", [v1, v2])
def test_smallest_amounts_are_what_the_kernel_takes(tmp_path: Path, make: type) -> None:
    group = make(tmp_path)
    try:
        found = group.apply(Limits(Resources(cpu=0.0), Resources(cpu=0.01)))
        for cores in (0.0001, 1e-9):
            with pytest.raises(SandboxError, match=r"the least is 0\.01"):
                group.apply(Limits(ceiling=Resources(cpu=cores)))
        assert group.read_back() == found
        one = Limits(guarantee=Resources(cpu=1.0))
        assert group.apply(one).guarantee.cpu == 1.0, "the kernel's own amount, when somebody states it"
    finally:
        group.close()
    assert found.ceiling.cpu == 0.01
    assert found.guarantee.cpu in (2 / 1024, 0.01)


@pytest.mark.parametrize("make", [v1, v2])
def test_usage(tmp_path: Path, make: type) -> None:
    group = make(tmp_path)
    try:
        usage = group.usage()
    finally:
        group.close()
    throttled_s = 1.5 if make is v1 else 0.75
    assert usage == Usage(cpu_s=2.5, memory_bytes=35 * MIB, threads=5, throttled_s=throttled_s)


@pytest.mark.parametrize(("make", "kills"), [(v1, 3), (v2, 1)])
def test_out_of_memory_kills(tmp_path: Path, make: type, kills: int) -> None:
    group = make(tmp_path)
    try:
        assert group.out_of_memory_kills() == kills
    finally:
        group.close()


def test_v2_refuses_a_ceiling_below_use(tmp_path: Path) -> None:
    group = v2(tmp_path)
    try:
        group.apply(Limits(ceiling=Resources(memory_bytes=31 * MIB)))  # file cache can be dropped
        with pytest.raises(SandboxError, match=r"29MiB: 30MiB are in use now"):
            group.apply(Limits(ceiling=Resources(cpu=0.5, memory_bytes=29 * MIB)))
        assert first_line(tmp_path / "memory.max") == str(31 * MIB)
        assert first_line(tmp_path / "cpu.max") == "max 100000"
    finally:
        group.close()


@pytest.mark.parametrize("make", [v1, v2])
def test_group_that_is_gone(tmp_path: Path, make: type) -> None:
    group = make(tmp_path / "gone")
    for file in (tmp_path / "gone").iterdir():
        file.unlink()
    (tmp_path / "gone").rmdir()
    try:
        assert group.usage() is None
        assert group.members() == ()
        assert group.out_of_memory_kills() == 0
        group.kill()
        with pytest.raises(SandboxError):
            group.read_back()
        with pytest.raises(SandboxError):
            group.apply(LIMITS)
        with pytest.raises(SandboxError):
            group.attach(os.getpid())
        assert group.remove(0.0)
    finally:
        group.close()


def test_changes_are_undone_when_one_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"one": "1", "two": "2"})
    files = ControlFiles(str(folder))
    try:
        with pytest.raises(SandboxError, match="missing is not there"):
            apply(
                [Step(files, "one", "7", "one"), Step(files, "two", "8", "two"), Step(files, "missing", "9", "three")]
            )
    finally:
        files.close()
    assert (first_line(folder / "one"), first_line(folder / "two")) == ("1", "2")


def test_page_rounding_counts_as_taken(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"limit": "4096"})
    files = ControlFiles(str(folder))
    try:
        apply([Step(files, "limit", "5000", "a limit", rounded=True)])  # 4096 is 5000 in pages
        with pytest.raises(OSError, match="No such file"):
            files.read("other")
    finally:
        files.close()
    assert first_line(folder / "limit") == "4096"


def test_capacity_is_the_least_of_all_above(tmp_path: Path) -> None:
    top = folder_of(tmp_path / "cg", {})
    folder_of(top / "a", {"cpu.max": "300000 100000", "memory.max": "max"})
    folder_of(top / "a" / "b", {"cpu.max": "max 100000", "memory.max": str(512 * MIB)})
    groups = CgroupV2(str(top / "a" / "b"), str(top), "shardwright-1-1", (), "")
    assert groups.capacity() == Resources(cpu=3.0, memory_bytes=512 * MIB)
    old = folder_of(tmp_path / "v1", V1_FILES)
    folder_of(old / "a", {**V1_FILES, "cpu.cfs_quota_us": "50000", "memory.limit_in_bytes": str(64 * MIB)})
    bases = {"cpu": str(old / "a"), "memory": str(old / "a")}
    older = CgroupV1(bases, dict.fromkeys(bases, str(old)), "shardwright-1-1", {})
    assert older.capacity() == Resources(cpu=0.5, memory_bytes=64 * MIB)


@pytest.mark.parametrize(
    ("path", "ours"),
    [
        ("/cg/shardwright-1-2/web-1", True),
        ("/cg/shardwright-1-2-4026532000/web-1", True),
        ("/cg/user.slice/scope/shardwright-1-2/web-1", True),
        ("/cg/shardwright-1-2", False),
        ("/cg/shardwright-1-2/../system.slice", False),
        ("/cg/system.slice/web-1", False),
        ("/elsewhere/shardwright-1-2/web-1", False),
        ("/cg/shardwright-x-2/web-1", False),
        ("", False),
    ],
)
def test_only_our_own_folders_are_opened(path: str, ours: bool) -> None:
    assert _cgroup.is_ours(path, "/cg") is ours


@pytest.mark.parametrize(
    ("name", "folder"), [("web-1", "web-1"), ("a/b c", "a_b_c"), ("..", "_"), ("", "_"), (".hidden", "hidden")]
)
def test_shard_ids_become_folder_names(name: str, folder: str) -> None:
    assert _cgroup.folder_name(name) == folder


def test_owner_is_dead_only_for_certain() -> None:
    mine = _cgroup.owner_name()
    assert not _cgroup.owner_is_dead(mine)
    pid, start = mine.split("-")[1:3]
    rest = mine.removeprefix(f"shardwright-{pid}-{start}")
    assert _cgroup.owner_is_dead(f"shardwright-{pid}-{int(start) + 1}{rest}")
    assert not _cgroup.owner_is_dead(f"shardwright-{pid}-{int(start) + 1}-12345"), "of another pid namespace"
    for other in ("shardwright-1", "shardwright-demo", "docker", f"shardwright-{pid}-{start}.scope"):
        assert not _cgroup.owner_is_dead(other)


OWNER = "shardwright-1-1"
HANDED_DOWN = {"cgroup.controllers": "cpu io memory pids", "cgroup.subtree_control": ""}


def test_v2_hands_controllers_down(tmp_path: Path) -> None:
    base = folder_of(tmp_path / "scope", HANDED_DOWN)
    own = folder_of(base / OWNER, {**HANDED_DOWN, "cpu.weight": "100", "memory.low": "0"})
    groups = CgroupV2.prepare(str(base), str(tmp_path), OWNER)
    assert isinstance(groups, CgroupV2)
    assert groups.enforces == ("cpu", "memory", "pids", "io")
    assert groups.reason == ""
    for folder in (base, own):
        assert first_line(folder / "cgroup.subtree_control") == "+cpu +memory +pids +io"
    assert first_line(own / "cpu.weight") == str(min(100 * (os.cpu_count() or 1), 10_000))
    assert first_line(own / "memory.low") == "max"


def test_v2_starts_again_where_room_was_made_before(tmp_path: Path) -> None:
    """Our processes, and so our own path, are then in the group that they were moved to."""
    base = folder_of(tmp_path / "scope", HANDED_DOWN)
    folder_of(base / OWNER, HANDED_DOWN)
    folder_of(base / "shardwright.members", {"cgroup.controllers": ""})
    assert isinstance(CgroupV2.prepare(str(base / "shardwright.members"), str(tmp_path), OWNER), CgroupV2)


def test_v2_that_refuses_is_told_and_left_as_it_was(tmp_path: Path) -> None:
    base = folder_of(tmp_path / "scope", {"cgroup.controllers": "cpu memory pids"})
    reason = CgroupV2.prepare(str(base), str(tmp_path), OWNER)
    assert reason == f"{base}: No such file or directory"
    assert not (base / OWNER).exists()


def test_v2_group_that_cannot_be_made_again(tmp_path: Path) -> None:
    base = folder_of(tmp_path / "scope", {"cgroup.controllers": "cpu memory pids"})
    groups = CgroupV2(str(base), str(tmp_path), OWNER, ("cpu",), "")
    with pytest.raises(SandboxError, match="no longer available"):
        groups.create("web-1", Limits(), 10)


def test_v1_group_is_undone_when_its_limits_are_refused(tmp_path: Path) -> None:
    bases = {name: str(folder_of(tmp_path / name, {})) for name in ("cpu", "memory")}
    groups = CgroupV1(bases, bases, OWNER, {})
    with pytest.raises(SandboxError, match="is not there"):
        groups.create("web-1", LIMITS, 10)
    for base in bases.values():
        assert not Path(base, OWNER, "web-1").exists()
    groups.close()
    for base in bases.values():
        assert os.listdir(base) == []


def test_what_the_kernel_does_not_take_over_is_told(tmp_path: Path) -> None:
    """A file that swallows what is written to it."""
    folder = folder_of(tmp_path, {})
    (folder / "limit").symlink_to(os.devnull)
    files = ControlFiles(str(folder))
    try:
        with pytest.raises(SandboxError, match=r"did not take over a limit: wrote '5' .* it reads ''"):
            apply([Step(files, "limit", "5", "a limit")])
    finally:
        files.close()
