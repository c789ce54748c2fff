"""What a test may leave behind: nothing.

``Inventory.take`` lists what this process holds and what carries our name on this machine; ``leaks`` compares two.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["Inventory", "adopt_orphans", "leaks", "reap_adopted", "settle"]

_PR_SET_CHILD_SUBREAPER = 36
# Opened once by libraries and kept: not a leak.
_KEPT_BY_LIBRARIES = ("/dev/urandom", "/dev/random")
_SHM_NAMES = ("shardwright", "psm_", "sem.mp-")


def adopt_orphans() -> None:
    """Let processes whose parent died become children of this one, so that none can slip out of the count."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _descriptors() -> frozenset[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
        if not target.startswith(_KEPT_BY_LIBRARIES):
            found.add(f"descriptor {name} -> {target}")
    return frozenset(found)


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _describe(process: psutil.Process) -> str:
    try:
        return f"process {process.pid} {' '.join(process.cmdline()[:6])[:160]}"
    except psutil.Error:
        return f"process {process.pid}"


def _children() -> frozenset[psutil.Process]:
    return frozenset(child for child in psutil.Process().children(recursive=True) if not _is_zombie(child))


def reap_adopted(known: frozenset[int] = frozenset()) -> None:
    """Collect dead children that nobody waits for, except ``known`` ones."""
    for child in psutil.Process().children():
        if child.pid not in known and _is_zombie(child):
            with contextlib.suppress(ChildProcessError):  # somebody waited in the meantime
                os.waitpid(child.pid, os.WNOHANG)


def _cgroup_roots() -> tuple[Path, ...]:
    roots = set()
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        mount, _, source = line.partition(" - ")
        if source.split(" ", 1)[0] in ("cgroup", "cgroup2"):
            roots.add(Path(mount.split(" ")[4]))
    return tuple(sorted(roots))


def _cgroup_members(folder: str) -> set[int]:
    members: set[int] = set()
    for path, _, _ in os.walk(folder):
        try:
            members.update(int(pid) for pid in Path(path, "cgroup.procs").read_text(encoding="utf-8").split())
        except OSError:
            continue
    return members


def _cgroups() -> frozenset[str]:
    found = set()
    for root in _cgroup_roots():
        for path, folders, _ in os.walk(root):
            for name in list(folders):
                if name.startswith("shardwright"):
                    found.add(os.path.join(path, name))
                    folders.remove(name)  # one line for a whole tree
    return frozenset(found)


def _is_anothers(name: str, ours: set[int]) -> bool:
    """Whether a name, such as shardwright-PID-TIME, holds the number of a living process that is none of ours."""
    pid = next((int(word) for word in name.rpartition("/")[2].split("-") if word.isdigit()), 0)
    return bool(pid) and pid not in ours and psutil.pid_exists(pid)


def _shared_memory() -> frozenset[str]:
    try:
        names = os.listdir("/dev/shm")
    except OSError:
        return frozenset()
    return frozenset(f"/dev/shm/{name}" for name in names if name.startswith(_SHM_NAMES))


def _runtime_files(runtime: Path | None) -> frozenset[str]:
    found = set()
    for path, _, names in os.walk(runtime or os.devnull):
        for name in names:
            full = os.path.join(path, name)
            try:
                if stat.S_ISSOCK(os.lstat(full).st_mode):
                    found.add(f"socket {full}")
            except FileNotFoundError:
                continue
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class Inventory:
    """What this process holds, and what bears our name on this machine, at one moment."""

    descriptors: frozenset[str]
    children: frozenset[psutil.Process]
    cgroups: frozenset[str]
    shared_memory: frozenset[str]
    sockets: frozenset[str]

    @classmethod
    def take(cls, runtime: Path | None = None) -> Inventory:
        return cls(_descriptors(), _children(), _cgroups(), _shared_memory(), _runtime_files(runtime))


def leaks(before: Inventory, after: Inventory) -> list[str]:
    """What is there after and was not before, one line each; empty where nothing leaked."""
    ours = (
        {child.pid for child in after.children} | {os.getpid()} | {parent.pid for parent in psutil.Process().parents()}
    )
    found = sorted(after.descriptors - before.descriptors)
    found += sorted(_describe(child) for child in after.children - before.children)
    for folder in sorted(after.cgroups - before.cgroups):
        members = _cgroup_members(folder)
        if members & ours or not (members or _is_anothers(folder, ours)):  # else it is of another run on this machine
            found.append(f"control group {folder}")
    found += sorted(name for name in after.shared_memory - before.shared_memory if not _is_anothers(name, ours))
    found += sorted(after.sockets - before.sockets)
    return found


def settle(before: Inventory, runtime: Path | None = None, *, grace_s: float = 2.0) -> list[str]:
    """The leaks since ``before`` that are there all the time for ``grace_s``: ends are noticed asynchronously.

    What comes or goes meanwhile is of another run on this machine, or in the course of being removed.
    """
    known = frozenset(child.pid for child in before.children)
    deadline = time.monotonic() + grace_s
    pause_s = 0.01
    lasting: list[str] | None = None
    while True:
        found = leaks(before, Inventory.take(runtime))
        lasting = found if lasting is None else [leak for leak in lasting if leak in found]
        if not lasting or time.monotonic() > deadline:
            reap_adopted(known)
            return lasting
        gc.collect()  # what a cycle still holds is not a leak
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.2)
