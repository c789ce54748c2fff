"""Control groups, version 2: one hierarchy, controllers handed down by ``cgroup.subtree_control``.

The test command runs membership and ``cgroup.kill`` against a real version 2 mount where there is one, and the whole
conformance suite where cpu, memory and pids are version 2 controllers; elsewhere the files of the controllers are
unit-tested against the documented formats. The conformance suite was run by hand on Linux 6.1 with version 2 alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Collection

from shardwright.errors import SandboxError
from shardwright.model.limits import Limits, Resources, Usage
from shardwright.model.units import format_bytes
from shardwright.sandbox._linux import _cgroup, _io
from shardwright.sandbox._linux._cgroup import ControlGroup, ControlGroups
from shardwright.sandbox._linux._files import ControlFiles, Step, apply
from shardwright.sandbox._linux._procfs import read_text

CONTROLLERS = ("cpu", "memory", "pids", "io")
_NOT_MISSED = ("io",)  # its absence is no reason to say that less than all is enforced
PERIOD_US = 100_000
_WEIGHT_PER_CORE = 100
_MAX_WEIGHT = 10_000
# where processes of a delegated group move to, for a group that hands controllers down may hold none itself; the name
# is outside of what sweep() looks at
_MEMBERS = "shardwright.members"


class GroupV2(ControlGroup):
    """One sandbox's folder. ``controllers`` are those in force in it."""

    def __init__(self, folder: str, controllers: Collection[str]) -> None:
        self.paths = (folder,)
        self._files = ControlFiles(folder)
        self._controllers = frozenset(controllers)
        self._cpu_stated = False
        self._looked = _cgroup.Looked()

    def __repr__(self) -> str:
        return f"GroupV2({self.paths[0]!r})"

    def entrances(self) -> tuple[int, ...]:
        return (self._files.writer("cgroup.procs"),)

    def attach(self, pid: int) -> None:
        try:
            self._files.write("cgroup.procs", str(pid))
        except OSError as error:
            raise SandboxError(f"cannot put process {pid} into {self.paths[0]}: {error.strerror}") from error

    def apply(self, limits: Limits, max_pids: int | None = None) -> Limits:
        files, steps = self._files, []
        if "memory" in self._controllers:
            amount = limits.ceiling.memory_bytes
            if amount is not None:
                self._check_room(amount)
                if files.has("memory.swap.max"):
                    steps.append(Step(files, "memory.swap.max", "0", "the swap ceiling"))
                steps.append(Step(files, "memory.max", str(amount), "the memory ceiling", rounded=True))
            if limits.guarantee.memory_bytes is not None:
                low = str(limits.guarantee.memory_bytes)
                steps.append(Step(files, "memory.low", low, "the memory guarantee", rounded=True))
        if "cpu" in self._controllers:
            if limits.ceiling.cpu is not None:
                steps += self._quota_steps(limits.ceiling.cpu)
            if limits.guarantee.cpu is not None:
                weight = min(max(1, round(limits.guarantee.cpu * _WEIGHT_PER_CORE)), _MAX_WEIGHT)
                steps.append(Step(files, "cpu.weight", str(weight), "the CPU guarantee"))
        if "pids" in self._controllers and max_pids is not None:
            steps.append(Step(files, "pids.max", str(max_pids), "the number of processes"))
        rate = limits.ceiling.io_bytes_s
        if "io" in self._controllers and rate is not None and (disks := _io.disks()):
            before = _io.read_rate(files)
            _io.set_rate(files, rate, disks)
            try:
                apply(steps)
            except SandboxError:
                _io.set_rate(files, before, disks)
                raise
        else:
            apply(steps)
        self._cpu_stated |= limits.guarantee.cpu is not None
        return self.read_back()

    def _quota_steps(self, cores: float) -> list[Step]:
        what = "the CPU ceiling"
        quota_us = _cgroup.quota_us(cores, PERIOD_US)
        quota = Step(self._files, "cpu.max", f"{quota_us} {PERIOD_US}", what)
        if not self._files.has("cpu.max.burst"):
            return [quota]
        # a quarter of a period may be saved up for bursts; it may at no moment exceed the quota
        burst = Step(self._files, "cpu.max.burst", str(min(quota_us // 2, 25_000)), what)
        now = self._files.value("cpu.max").partition(" ")[0]
        return [quota, burst] if now != "max" and int(now) < quota_us else [burst, quota]

    def _check_room(self, amount: int) -> None:
        """Version 2 would end members to get below a lower ceiling where version 1 refuses it: refuse as well."""
        try:
            used = int(self._files.value("memory.current"))
        except OSError:
            return
        stat = self._files.table("memory.stat")
        needed = used - stat.get("inactive_file", 0) - stat.get("active_file", 0)
        if needed > amount:
            raise SandboxError(
                f"cannot lower the memory ceiling to {format_bytes(amount)}: {format_bytes(needed)} are in use now",
                remedy="choose a higher amount, or let the shard release memory first",
            )

    def read_back(self) -> Limits:
        files = self._files
        try:
            quota, period = files.value("cpu.max").split() if "cpu" in self._controllers else ("max", "1")
            weight = int(files.value("cpu.weight")) if "cpu" in self._controllers else _WEIGHT_PER_CORE
            # the kernel begins with one core's worth, which nobody guaranteed
            stated = "cpu" in self._controllers and (self._cpu_stated or weight != _WEIGHT_PER_CORE)
            return Limits(
                guarantee=Resources(
                    cpu=weight / _WEIGHT_PER_CORE if stated else None,
                    memory_bytes=self._bytes("memory.low") or None,
                ),
                ceiling=Resources(
                    cpu=None if quota == "max" else int(quota) / int(period),
                    memory_bytes=self._bytes("memory.max"),
                    io_bytes_s=_io.read_rate(files) if "io" in self._controllers else None,
                ),
            )
        except OSError as error:
            raise SandboxError(f"control group {self.paths[0]} cannot be read: {error.strerror}") from error

    def _bytes(self, name: str) -> int | None:
        if "memory" not in self._controllers:
            return None
        text = self._files.value(name)
        return None if text == "max" else int(text)

    def usage(self) -> Usage | None:
        files = self._files
        if not {"memory", "pids"} <= self._controllers:
            return None  # the caller measures the process itself
        try:
            taken = files.number("cpu.stat", "usage_usec")
            if (before := self._looked.unless_moved(taken)) is not None:
                return before
            used = files.number("memory.current")
            return self._looked.keep(
                taken,
                Usage(
                    cpu_s=taken / 1e6,
                    memory_bytes=max(0, used - files.number("memory.stat", "inactive_file")),
                    threads=files.number("pids.current"),
                    throttled_s=files.number("cpu.stat", "throttled_usec") / 1e6,
                ),
            )
        except (OSError, ValueError):
            return None

    def kill(self) -> None:
        try:
            self._files.write("cgroup.kill", "1")
        except FileNotFoundError:  # kernels before 5.14, or the folder is gone
            _cgroup.end_members(self.paths[0])
        except OSError:
            if self.members():
                raise

    def out_of_memory_kills(self) -> int:
        return self._files.table("memory.events").get("oom_kill", 0)

    def remove(self, timeout_s: float) -> bool:
        self.close()
        return _cgroup.remove_folders(self.paths, timeout_s)

    def close(self) -> None:
        self._files.close()


class CgroupV2(ControlGroups):
    """Control groups beneath ``base``, the folder that this process is in."""

    version = 2
    remedy = "run as root, or beneath a delegated control group: systemd-run --user --scope -p Delegate=yes …"

    def __init__(self, base: str, top: str, owner: str, controllers: Collection[str], reason: str) -> None:
        self.owner = owner
        self._base = base
        self._top = top
        self._controllers = tuple(controllers)
        self.enforces = tuple(name for name in CONTROLLERS if name in controllers)
        self.reason = reason

    def __repr__(self) -> str:
        return f"CgroupV2({self._base!r}, {self._controllers!r})"

    @classmethod
    def prepare(
        cls, base: str, top: str, owner: str, wanted: Collection[str] = CONTROLLERS, *, bare: bool = False
    ) -> CgroupV2 | str:
        """Make our own folder with the wanted controllers handed down to it; the reason when that is not permitted.

        ``bare`` asks for membership and killing alone, without any controller.
        """
        if os.path.basename(base) == _MEMBERS:
            base = os.path.dirname(base)  # an earlier run made room here already
        offered = _words(base, "cgroup.controllers")
        if not _io.disks():
            offered = [name for name in offered if name != "io"]  # there is nothing that a rate could be set for
        controllers = [name for name in wanted if name in offered]
        missing = [name for name in wanted if name not in offered and name not in _NOT_MISSED]
        if not controllers and not bare:
            return f"{base}: offers none of {', '.join(name for name in wanted if name not in _NOT_MISSED)}"
        folder = f"{base}/{owner}"
        try:
            os.makedirs(folder, 0o755, exist_ok=True)
            _hand_down(base, controllers)
            _hand_down(folder, controllers)
            _raise_folder(folder)
        except OSError as error:
            with contextlib.suppress(OSError):  # perhaps it was never made
                os.rmdir(folder)
            if error.errno == errno.EBUSY:
                return f"{base}: it holds processes of others, so that it cannot hand controllers down"
            return f"{base}: {error.strerror}"
        reason = f"{base}: does not offer {', '.join(missing)}" if missing else ""
        return cls(base, top, owner, controllers, reason)

    def create(self, name: str, limits: Limits, max_pids: int) -> ControlGroup | None:
        folder = f"{self._base}/{self.owner}/{_cgroup.folder_name(name)}"
        if not os.path.isdir(os.path.dirname(folder)):  # swept or closed in the meantime
            again = self.prepare(self._base, self._top, self.owner, self._controllers, bare=not self._controllers)
            if isinstance(again, str):
                raise SandboxError(f"control groups are no longer available: {again}", remedy=self.remedy)
        _cgroup.make_folder(folder)
        group = GroupV2(folder, self._controllers)
        try:
            group.apply(limits, max_pids)
        except BaseException:
            group.remove(1.0)
            raise
        return group

    def open(self, paths: Collection[str]) -> ControlGroup | None:
        for path in paths:
            if _cgroup.is_ours(path, self._top) and os.path.isdir(path):
                return GroupV2(path, self._controllers)
        return None

    def capacity(self) -> Resources:
        cores: list[float] = []
        amounts: list[int] = []
        folder = self._base
        while folder == self._top or folder.startswith(self._top + "/"):
            quota = _words(folder, "cpu.max")  # the topmost group has no limits and no such files
            if len(quota) == 2 and quota[0] != "max":
                cores.append(int(quota[0]) / int(quota[1]))
            amount = _words(folder, "memory.max")
            if amount and amount[0] != "max":
                amounts.append(int(amount[0]))
            folder = os.path.dirname(folder)
        return Resources(cpu=min(cores, default=None), memory_bytes=min(amounts, default=None))

    def sweep(self, alive: Collection[str] = ()) -> tuple[str, ...]:
        stale = _cgroup.stale_folders(self._base, self.owner, alive)
        return tuple(folder for folder in stale if _cgroup.remove_folders([folder], 2.0))

    def close(self) -> None:
        _cgroup.remove_empty(
            f"{self._base}/{self.owner}"
        )  # or it is in use by another backend of this process, or gone


def _words(folder: str, name: str) -> list[str]:
    return (read_text(f"{folder}/{name}") or "").split()


def _hand_down(folder: str, controllers: Collection[str]) -> None:
    """Have a folder hand controllers down to those beneath it. Raises OSError."""
    missing = [name for name in controllers if name not in _words(folder, "cgroup.subtree_control")]
    if not missing:
        return
    files = ControlFiles(folder)
    request = " ".join(f"+{name}" for name in missing)
    try:
        try:
            files.write("cgroup.subtree_control", request)
        except OSError as error:
            if error.errno != errno.EBUSY or not _make_room(files):
                raise
            files.write("cgroup.subtree_control", request)
    finally:
        files.close()


def _make_room(files: ControlFiles) -> bool:
    """Move the processes of a group that is ours into one beneath it; False when it is not certainly ours.

    Ours is a group that holds this process alone, and one that systemd marked as delegated.
    """
    pids = [int(word) for word in files.read("cgroup.procs").split()]
    if pids != [os.getpid()] and not _is_delegated(files.folder):
        return False
    os.makedirs(f"{files.folder}/{_MEMBERS}", 0o755, exist_ok=True)
    room = ControlFiles(f"{files.folder}/{_MEMBERS}")
    try:
        for pid in pids:
            try:
                room.write("cgroup.procs", str(pid))
            except ProcessLookupError:
                continue  # it ended in the meantime
    finally:
        room.close()
    return True


def _is_delegated(folder: str) -> bool:
    for name in ("user.delegate", "trusted.delegate"):
        try:
            if os.getxattr(folder, name) == b"1":
                return True
        except OSError:
            continue
    return False


def _raise_folder(folder: str) -> None:
    """Shards share out what their common folder gets, so that weighs as much as the machine is wide."""
    files = ControlFiles(folder)
    try:
        if files.has("cpu.weight"):
            files.write("cpu.weight", str(min(_WEIGHT_PER_CORE * (os.cpu_count() or 1), _MAX_WEIGHT)))
        if files.has("memory.low"):
            files.write("memory.low", "max")  # protects nothing by itself: it lets the shards' own guarantees count
    finally:
        files.close()
