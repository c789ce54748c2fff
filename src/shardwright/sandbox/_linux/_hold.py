"""A running box as a whole: stopped and let go on, or held to some processors. What it is told is read back.

By signals, and by the affinity of each of its threads, again while new ones appear: a further hierarchy of control groups would
cost each start its share. A process may widen its own affinity again; what must not is given a ceiling of CPU as well.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Iterator

from shardwright.errors import SandboxError
from shardwright.sandbox._linux import _cgroup, _pidfd
from shardwright.sandbox._linux._mounts import hierarchies
from shardwright.sandbox._linux._procfs import children, process_stat, read_text

_ROUNDS = 50
_PATIENCE_S = 1.0
_STOPPED = frozenset("TtZX")


def box_members(pid: int) -> tuple[int, ...]:
    """Everybody in the box that this process is in: its control group of ours, else all that descend from it."""
    folder = _own_folder(pid)
    if folder:
        return _cgroup.members(folder)
    found = [pid]
    for each in found:
        found += [child for child in children(each) if child not in found]
    return tuple(found)


def pause(pid: int) -> int:
    """Stop everybody in that box; how many they are. Raises SandboxError when it does not stop; then it goes on."""
    end_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end_s:
        members = box_members(pid)
        running = [each for each in members if (stat := process_stat(each)) and stat.state not in _STOPPED]
        if members and not running:
            return len(members)
        _signal(running, signal.SIGSTOP)
        time.sleep(0.0005)  # whoever is inside the kernel stops when it leaves it
    unpause(pid)
    raise SandboxError(f"the box of process {pid} does not stop", remedy="it waits inside the kernel; try again later")


def unpause(pid: int) -> int:
    """Let everybody in that box go on; how many they are."""
    members = box_members(pid)
    _signal(members, signal.SIGCONT)
    return len(members)


def pin(pid: int, cpus: Collection[int]) -> frozenset[int]:
    """Hold every thread in that box to these processors; what reads back. Raises SandboxError."""
    wanted = frozenset(cpus)
    try:
        for _ in range(_ROUNDS):
            astray = [task for task in _tasks(pid) if frozenset(os.sched_getaffinity(task)) != wanted]
            if not astray:
                return wanted
            for task in astray:
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(task, wanted)
    except ProcessLookupError:
        return pin(pid, cpus) if process_stat(pid) is not None else frozenset()
    except (OSError, ValueError) as error:
        raise SandboxError(
            f"process {pid} cannot be held to processors {sorted(wanted)}: {error}",
            remedy="name processors that this node may use itself",
        ) from error
    raise SandboxError(f"the box of process {pid} does not stay on processors {sorted(wanted)}")


def _tasks(pid: int) -> Iterator[int]:
    for member in box_members(pid):
        with contextlib.suppress(OSError):
            yield from map(int, os.listdir(f"/proc/{member}/task"))


def _signal(pids: Collection[int], number: signal.Signals) -> None:
    for each in pids:
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(each)
            try:
                _pidfd.send(descriptor, number)
            finally:
                os.close(descriptor)


def _own_folder(pid: int) -> str:
    """Its control group, if that is one of ours."""
    found = hierarchies("/sys/fs/cgroup", "/proc")
    for line in (read_text(f"/proc/{pid}/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        tops = (
            [found.unified_top]
            if number == "0"
            else [found.tops[name] for name in names.split(",") if name in found.tops]
        )
        for top in filter(None, tops):
            folder = f"{top}{path}"
            if _cgroup.is_ours(folder, top) and os.path.isdir(folder):
                return folder
    return ""
