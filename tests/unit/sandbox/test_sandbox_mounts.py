"""Reading the mount table, and choosing a version, against trees with the kernel's own file names."""

from __future__ import annotations

from pathlib import Path

from shardwright.sandbox._linux._cgroup import NoCgroups
from shardwright.sandbox._linux._cgroup_v1 import CgroupV1
from shardwright.sandbox._linux._cgroup_v2 import CgroupV2
from shardwright.sandbox._linux._detect import detect
from shardwright.sandbox._linux._mounts import hierarchies

OWNER = "shardwright-1-1"


class Machine:
    """A /proc and a /sys/fs/cgroup of files."""

    def __init__(self, folder: Path) -> None:
        self.root, self.proc = folder / "cgroup", folder / "proc"
        self.root.mkdir()
        (self.proc / "self").mkdir(parents=True)
        self._mounts: list[str] = []
        self._groups: list[str] = []
        self._write()

    def _write(self) -> None:
        (self.proc / "self" / "mountinfo").write_text("".join(self._mounts))
        (self.proc / "self" / "cgroup").write_text("".join(self._groups))

    def v1(self, names: str, own: str = "/", mounted_root: str = "/") -> Path:
        point = self.root / names
        number = len(self._mounts) + 1
        self._mounts.append(
            f"3{number} 31 0:2{number} {mounted_root} {point} rw,relatime shared:9 - cgroup cgroup rw,{names}\n"
        )
        self._groups.append(f"{number}:{names}:{own}\n")
        inside = own.removeprefix(mounted_root) if mounted_root != "/" else own
        folder = point / inside.strip("/")
        folder.mkdir(parents=True)
        self._write()
        return folder

    def v2(self, point: str = "", own: str = "/", controllers: str = "cpu memory pids") -> Path:
        top = self.root / point if point else self.root
        self._mounts.append(f"30 31 0:30 / {top} rw,nosuid - cgroup2 cgroup2 rw\n")
        self._groups.append(f"0::{own}\n")
        folder = top / own.strip("/")
        for place in (folder, folder / OWNER):
            place.mkdir(parents=True, exist_ok=True)
            (place / "cgroup.controllers").write_text(controllers + "\n")
            (place / "cgroup.subtree_control").write_text(controllers + "\n")
        self._write()
        return folder

    def detect(self) -> object:
        return detect(str(self.root), str(self.proc), OWNER)


def test_nothing_mounted(tmp_path: Path) -> None:
    groups = Machine(tmp_path).detect()
    assert isinstance(groups, NoCgroups)
    assert "no control groups are mounted" in groups.reason
    assert groups.remedy
    assert groups.enforces == ()


def test_no_proc_at_all(tmp_path: Path) -> None:
    assert isinstance(detect(str(tmp_path), str(tmp_path / "missing")), NoCgroups)


def test_version_1_below_our_own_group(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    cpu, memory, pids = machine.v1("cpu,cpuacct", "/batch"), machine.v1("memory"), machine.v1("pids", "/batch/7")
    groups = machine.detect()
    assert isinstance(groups, CgroupV1)
    assert groups.enforces == ("cpu", "memory", "pids")
    assert groups.reason == ""
    for folder in (cpu, memory, pids):
        assert (folder / OWNER).is_dir()
    groups.close()
    for folder in (cpu, memory, pids):
        assert not (folder / OWNER).exists()


def test_hybrid_mount_picks_version_1(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    for name in ("cpu", "memory", "pids"):
        machine.v1(name)
    machine.v2("unified", controllers="hugetlb")
    assert isinstance(machine.detect(), CgroupV1)


def test_missing_controller_is_named(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.v1("cpu")
    machine.v1("pids")
    groups = machine.detect()
    assert isinstance(groups, CgroupV1)
    assert groups.enforces == ("cpu", "pids")
    assert groups.reason == "memory: no such controller"


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.v1("cpu")
    memory = machine.v1("memory")
    memory.rmdir()
    memory.write_text("not a folder")
    groups = machine.detect()
    assert isinstance(groups, CgroupV1)
    assert groups.enforces == ("cpu",)
    assert "Not a directory" in groups.reason


def test_version_2(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.v2(own="/user.slice/scope")
    groups = machine.detect()
    assert isinstance(groups, CgroupV2)
    assert groups.enforces == ("cpu", "memory", "pids")


def test_version_2_without_memory_says_so(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    folder = machine.v2(own="/scope", controllers="cpu pids")
    groups = machine.detect()
    assert isinstance(groups, CgroupV2)
    assert groups.enforces == ("cpu", "pids")
    assert groups.reason == f"{folder}: does not offer memory"


def test_version_2_without_controllers_is_none(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.v2(controllers="hugetlb")
    groups = machine.detect()
    assert isinstance(groups, NoCgroups)
    assert "offers none of cpu, memory, pids" in groups.reason


def test_container_that_sees_its_own_part(tmp_path: Path) -> None:
    """Without a cgroup namespace /proc names the whole path, of which the mount shows the end."""
    machine = Machine(tmp_path)
    machine.v1("memory", own="/docker/abc/inner", mounted_root="/docker/abc")
    found = hierarchies(str(machine.root), str(machine.proc))
    assert found.controllers == {"memory": str(machine.root / "memory" / "inner")}
    assert found.tops == {"memory": str(machine.root / "memory")}


def test_group_outside_of_the_namespace_is_its_top(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.v1("cpu")
    (machine.proc / "self" / "cgroup").write_text("1:cpu:/../../elsewhere\n")
    found = hierarchies(str(machine.root), str(machine.proc))
    assert found.controllers == {"cpu": str(machine.root / "cpu")}


def test_mounts_elsewhere_and_garbage_do_not_count(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    (machine.proc / "self" / "mountinfo").write_text(
        "31 1 0:1 / /elsewhere rw - cgroup cgroup rw,cpu\ngarbage\n\n32 1 0:1 / /x rw - proc\n"
    )
    (machine.proc / "self" / "cgroup").write_text("1:cpu:/\n")
    assert hierarchies(str(machine.root), str(machine.proc)).controllers == {}


def test_blanks_in_mount_points(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    place = machine.root / "with blank"
    place.mkdir()
    (machine.proc / "self" / "mountinfo").write_text(
        f"31 1 0:1 / {str(place).replace(' ', chr(92) + '040')} rw - cgroup cgroup rw,cpu\n"
    )
    (machine.proc / "self" / "cgroup").write_text("1:cpu:/\n")
    assert hierarchies(str(machine.root), str(machine.proc)).controllers == {"cpu": str(place)}
