"""Control groups, version 1: cpu, memory, pids, and cpuacct to measure, each in a hierarchy of its own.

blkio only for those whose rate of I/O is limited, devices only for those that must not use some: a hierarchy more costs each
start its share.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping

from shardwright.errors import SandboxError
from shardwright.model.limits import Limits, Resources, Usage
from shardwright.sandbox._linux import _cgroup, _io
from shardwright.sandbox._linux._cgroup import ControlGroup, ControlGroups
from shardwright.sandbox._linux._files import ControlFiles, Step, apply

CONTROLLERS = ("pids", "cpu", "memory", "cpuacct")  # membership is read, and ended, by the first one there is
PERIOD_US = 100_000
_SHARES_PER_CORE = 1024
_MAX_SHARES = 262_144
_UNLIMITED = 1 << 60
_MOVES = 20  # rounds of putting members elsewhere while others are born


class GroupV1(ControlGroup):
    """One sandbox in several hierarchies. ``folders`` maps controllers to folders.

    ``io_folder`` is where its folder of blkio belongs, made when a rate is asked for first, ``devices_folder`` likewise.
    """

    def __init__(self, folders: Mapping[str, str], io_folder: str = "", devices_folder: str = "") -> None:
        self._devices_folder = devices_folder
        self.paths = tuple(dict.fromkeys(folders.values()))
        self._io_folder = io_folder
        self._disks: tuple[str, ...] = ()
        by_path = {path: ControlFiles(path) for path in self.paths}
        self._files = {name: by_path[path] for name, path in folders.items()}
        self._all = tuple(by_path.values())
        self._cpu_stated = False
        self._looked = _cgroup.Looked()

    def __repr__(self) -> str:
        return f"GroupV1({self.paths!r})"

    def entrances(self) -> tuple[int, ...]:
        return tuple(files.writer("tasks") for files in self._all)

    def attach(self, pid: int) -> None:
        for files in self._all:
            try:
                files.write("cgroup.procs", str(pid))
            except OSError as error:
                raise SandboxError(f"cannot put process {pid} into {files.folder}: {error.strerror}") from error

    def apply(self, limits: Limits, max_pids: int | None = None) -> Limits:
        steps: list[Step] = []
        memory, cpu, pids = (self._files.get(name) for name in ("memory", "cpu", "pids"))
        if memory is not None:
            if limits.ceiling.memory_bytes is not None:
                steps += _memory_steps(memory, limits.ceiling.memory_bytes)
            if limits.guarantee.memory_bytes is not None:
                amount = str(limits.guarantee.memory_bytes)
                steps.append(Step(memory, "memory.soft_limit_in_bytes", amount, "the memory guarantee", rounded=True))
        if cpu is not None:
            if limits.ceiling.cpu is not None:
                steps += _quota_steps(cpu, limits.ceiling.cpu)
            if limits.guarantee.cpu is not None:
                shares = min(max(2, round(limits.guarantee.cpu * _SHARES_PER_CORE)), _MAX_SHARES)
                steps.append(Step(cpu, "cpu.shares", str(shares), "the CPU guarantee"))
        if pids is not None and max_pids is not None:
            steps.append(Step(pids, "pids.max", str(max_pids), "the number of processes"))
        known = apply(steps) if limits.ceiling.io_bytes_s is None else self._with_io(limits.ceiling.io_bytes_s, steps)
        self._cpu_stated |= limits.guarantee.cpu is not None
        return self._read_back(known)

    def _with_io(self, rate: int, steps: list[Step]) -> dict[str, str]:
        files = self._io_files()
        if files is None:
            return apply(steps)
        before = _io.read_rate(files)
        _io.set_rate(files, rate, self._disks)
        try:
            return apply(steps)
        except SandboxError:
            _io.set_rate(files, before, self._disks)
            raise

    def _io_files(self) -> ControlFiles | None:
        """Those of blkio, with everybody inside; None where there is no such hierarchy."""
        files = self._files.get("blkio")
        self._disks = self._disks or _io.disks()
        if files is not None or not self._io_folder or not self._disks:
            return files
        _make_owner_folder(*os.path.split(os.path.dirname(self._io_folder)))
        _cgroup.make_folder(self._io_folder)
        files = ControlFiles(self._io_folder)
        for _ in range(_MOVES):
            for pid in (inside := set(self.members())) - set(_cgroup.members(self._io_folder)):
                with contextlib.suppress(OSError):  # it ended meanwhile
                    files.write("cgroup.procs", str(pid))
            if inside >= set(self.members()):
                break
        self._files["blkio"] = files
        self._all = (*self._all, files)
        self.paths = (*self.paths, self._io_folder)
        return files

    def deny_devices(self, numbers: Collection[tuple[int, int]]) -> bool:
        if not self._devices_folder:
            return False
        if "devices" not in self._files:
            _make_owner_folder(*os.path.split(os.path.dirname(self._devices_folder)))
            _cgroup.make_folder(self._devices_folder)
            self._files["devices"] = files = ControlFiles(self._devices_folder)
            self._all = (*self._all, files)
            self.paths = (*self.paths, self._devices_folder)
        try:
            for major, minor in numbers:
                self._files["devices"].write("devices.deny", f"c {major}:{minor} rwm")
        except OSError as error:
            raise SandboxError(f"devices cannot be denied in {self._devices_folder}: {error.strerror}") from error
        return True

    def read_back(self) -> Limits:
        return self._read_back({})

    def _read_back(self, known: Mapping[str, str]) -> Limits:
        """``known`` was read just before."""
        memory, cpu, io = self._files.get("memory"), self._files.get("cpu"), self._files.get("blkio")
        try:
            quota_us = int(known.get("cpu.cfs_quota_us") or cpu.value("cpu.cfs_quota_us")) if cpu else -1
            period_us = int(known.get("cpu.cfs_period_us") or cpu.value("cpu.cfs_period_us")) if cpu else PERIOD_US
            shares = int(known.get("cpu.shares") or cpu.value("cpu.shares")) if cpu else _SHARES_PER_CORE
            # the kernel begins with one core's worth, which nobody guaranteed
            stated = self._cpu_stated or shares != _SHARES_PER_CORE
            return Limits(
                guarantee=Resources(
                    cpu=shares / _SHARES_PER_CORE if cpu and stated else None,
                    memory_bytes=_bytes(memory, "memory.soft_limit_in_bytes", known),
                ),
                ceiling=Resources(
                    cpu=quota_us / period_us if quota_us > 0 else None,
                    memory_bytes=_bytes(memory, "memory.limit_in_bytes", known),
                    io_bytes_s=None if io is None else _io.read_rate(io),
                ),
            )
        except OSError as error:
            raise SandboxError(f"control group {self.paths[0]} cannot be read: {error.strerror}") from error

    def usage(self) -> Usage | None:
        files = self._files
        if not {"cpuacct", "memory", "pids"} <= files.keys():
            return None  # the caller measures the process itself
        try:
            taken = files["cpuacct"].number("cpuacct.usage")
            if (before := self._looked.unless_moved(taken)) is not None:
                return before
            used = files["memory"].number("memory.usage_in_bytes")
            inactive = files["memory"].number("memory.stat", "total_inactive_file")
            return self._looked.keep(
                taken,
                Usage(
                    cpu_s=taken / 1e9,
                    memory_bytes=max(0, used - inactive),
                    threads=files["pids"].number("pids.current"),
                    throttled_s=files["cpu"].number("cpu.stat", "throttled_time") / 1e9 if "cpu" in files else 0.0,
                ),
            )
        except (OSError, ValueError):
            return None

    def kill(self) -> None:
        if "pids" in self._files:
            try:
                self._files["pids"].write("pids.max", "0")  # from here on nothing in it can fork
            except OSError:
                return  # the folder is gone
        if self.paths:
            _cgroup.end_members(self.paths[0])

    def out_of_memory_kills(self) -> int:
        return self._files["memory"].table("memory.oom_control").get("oom_kill", 0) if "memory" in self._files else 0

    def remove(self, timeout_s: float) -> bool:
        self.close()
        return _cgroup.remove_folders(self.paths, timeout_s)

    def close(self) -> None:
        for files in self._all:
            files.close()


class CgroupV1(ControlGroups):
    """Control groups beneath ``bases``: for each controller the folder that this process is in."""

    version = 1
    remedy = "run as root, or have the folders of the missing controllers delegated to this user"

    def __init__(
        self,
        bases: Mapping[str, str],
        tops: Mapping[str, str],
        owner: str,
        reasons: Mapping[str, str],
        io_base: str = "",
        devices_base: str = "",
    ) -> None:
        self.owner = owner
        self._io_base = io_base
        self._devices_base = devices_base
        self._bases = dict(bases)
        self._tops = dict(tops)
        self.enforces = tuple(name for name in ("cpu", "memory", "pids") if name in bases)
        if self.enforces and io_base:
            self.enforces += ("io",)
        self.reason = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())

    def __repr__(self) -> str:
        return f"CgroupV1({self._bases!r})"

    @classmethod
    def prepare(cls, bases: Mapping[str, str], tops: Mapping[str, str], owner: str) -> CgroupV1 | str:
        """Make our own folder in every hierarchy that permits it; the reason when none that matters does."""
        usable: dict[str, str] = {}
        reasons: dict[str, str] = {}
        for name in CONTROLLERS:
            if name not in bases:
                if name != "cpuacct":
                    reasons[name] = "no such controller"
                continue
            try:
                _make_owner_folder(bases[name], owner)
            except OSError as error:
                reasons[name] = f"{bases[name]}: {error.strerror}"
            else:
                usable[name] = bases[name]
        io_base = bases.get("blkio", "")
        if not (_io.disks() and os.access(io_base, os.W_OK) and os.path.exists(f"{io_base}/{_io.V1_FILES[0]}")):
            io_base = ""
        devices_base = bases.get("devices", "")
        if not os.access(f"{devices_base}/devices.deny", os.W_OK) and not os.access(devices_base, os.W_OK):
            devices_base = ""
        groups = cls(usable, tops, owner, reasons, io_base, devices_base)
        if groups.enforces:
            return groups
        groups.close()
        return groups.reason

    def create(self, name: str, limits: Limits, max_pids: int) -> ControlGroup | None:
        folders = {
            controller: f"{base}/{self.owner}/{_cgroup.folder_name(name)}" for controller, base in self._bases.items()
        }
        made: list[str] = []
        group: GroupV1 | None = None
        try:
            for controller, folder in folders.items():
                if folder in made:
                    continue
                if not os.path.isdir(os.path.dirname(folder)):  # swept or closed in the meantime
                    _make_owner_folder(self._bases[controller], self.owner)
                _cgroup.make_folder(folder)
                made.append(folder)
            group = GroupV1(folders, self._later(self._io_base, name), self._later(self._devices_base, name))
            group.apply(limits, max_pids)
        except BaseException:
            if group is not None:
                group.close()
                made += group.paths
            _cgroup.remove_folders(made, 1.0)
            raise
        return group

    def _later(self, base: str, name: str) -> str:
        return f"{base}/{self.owner}/{_cgroup.folder_name(name)}" if base else ""

    def open(self, paths: Collection[str]) -> ControlGroup | None:
        folders = {
            controller: path
            for controller in (*self._bases, *self._made_later())
            for path in paths
            if _cgroup.is_ours(path, self._tops[controller]) and os.path.isdir(path)
        }
        if not folders:
            return None
        owner, _, name = next(iter(folders.values())).rpartition("/")
        io_folder = f"{self._io_base}/{os.path.basename(owner)}/{name}" if self._io_base else ""
        return GroupV1(folders, io_folder)

    def _made_later(self) -> dict[str, str]:
        return {name: base for name, base in (("blkio", self._io_base), ("devices", self._devices_base)) if base}

    def capacity(self) -> Resources:
        cores: list[float] = []
        amounts: list[int] = []
        for folder in _upwards(self._bases.get("cpu"), self._tops.get("cpu")):
            files = ControlFiles(folder)
            try:
                quota_us = int(files.value("cpu.cfs_quota_us"))
                if quota_us > 0:
                    cores.append(quota_us / int(files.value("cpu.cfs_period_us")))
            except OSError:
                pass
            finally:
                files.close()
        for folder in _upwards(self._bases.get("memory"), self._tops.get("memory")):
            files = ControlFiles(folder)
            try:
                amount = _bytes(files, "memory.limit_in_bytes")
                if amount is not None:
                    amounts.append(amount)
            except OSError:
                pass
            finally:
                files.close()
        return Resources(cpu=min(cores, default=None), memory_bytes=min(amounts, default=None))

    def _all_bases(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self._bases.values(), *self._made_later().values())))

    def sweep(self, alive: Collection[str] = ()) -> tuple[str, ...]:
        removed: list[str] = []
        for base in self._all_bases():
            for folder in _cgroup.stale_folders(base, self.owner, alive):
                if _cgroup.remove_folders([folder], 2.0):
                    removed.append(folder)
        return tuple(removed)

    def close(self) -> None:
        for base in self._all_bases():
            _cgroup.remove_empty(f"{base}/{self.owner}")  # or it is in use by another backend of this process, or gone


def _make_owner_folder(base: str, owner: str) -> None:
    folder = f"{base}/{owner}"
    if os.path.isdir(folder):
        return
    os.mkdir(folder, 0o755)
    shares = f"{folder}/cpu.shares"
    if os.path.exists(shares):
        # shards share out what their common folder gets, so that weighs as much as the machine is wide
        files = ControlFiles(folder)
        try:
            files.write("cpu.shares", str(min(_SHARES_PER_CORE * (os.cpu_count() or 1), _MAX_SHARES)))
        finally:
            files.close()


def _memory_steps(files: ControlFiles, amount: int) -> list[Step]:
    what = "the memory ceiling"
    limit = Step(files, "memory.limit_in_bytes", str(amount), what, rounded=True)
    if not files.has("memory.memsw.limit_in_bytes"):
        return [limit]
    # memory and swap together may at no moment be less than memory alone
    both = Step(files, "memory.memsw.limit_in_bytes", str(amount), what, rounded=True)
    current = _bytes(files, "memory.limit_in_bytes")
    return [both, limit] if current is not None and amount > current else [limit, both]


def _quota_steps(files: ControlFiles, cores: float) -> list[Step]:
    what = "the CPU ceiling"
    quota_us = _cgroup.quota_us(cores, PERIOD_US)
    steps = [Step(files, "cpu.cfs_period_us", str(PERIOD_US), what)]
    quota = Step(files, "cpu.cfs_quota_us", str(quota_us), what)
    if not files.has("cpu.cfs_burst_us"):
        return [*steps, quota]
    # a quarter of a period may be saved up for bursts; it may at no moment exceed the quota
    burst = Step(files, "cpu.cfs_burst_us", str(min(quota_us // 2, 25_000)), what)
    now = int(files.value("cpu.cfs_quota_us"))
    return [*steps, quota, burst] if 0 <= now < quota_us else [*steps, burst, quota]


def _bytes(files: ControlFiles | None, name: str, known: Mapping[str, str] | None = None) -> int | None:
    if files is None:
        return None
    amount = int((known or {}).get(name) or files.value(name))
    return None if amount >= _UNLIMITED else amount


def _upwards(folder: str | None, top: str | None) -> list[str]:
    """The folder and those above it, up to the mount point."""
    found: list[str] = []
    while folder and top and (folder == top or folder.startswith(top + "/")):
        found.append(folder)
        folder = os.path.dirname(folder)
    return found
