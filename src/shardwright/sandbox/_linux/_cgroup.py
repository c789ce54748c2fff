"""The seam to control groups: ControlGroups makes ControlGroup objects, one for each sandbox.

Implementations: version 1, version 2, and none where the machine does not permit any. Folders lie beneath the control
group that this process was started in: ``shardwright-<pid>-<start ticks>/<shard>``, the name of the outer folder
being the *owner*, so that what a dead owner left is told from what a living one uses.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable

from shardwright.errors import SandboxError
from shardwright.model.limits import Limits, Resources, Usage
from shardwright.sandbox._linux import _pidfd
from shardwright.sandbox._linux._procfs import process_stat, read_text, start_ticks

PREFIX = "shardwright-"
_OWNER = re.compile(r"shardwright-(\d+)-(\d+)(?:-(\d+))?")
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC
_ROUNDS = 50
_MIN_QUOTA_US = 1_000
_ANEW = 16  # looks, after which everything is read again
_turns = itertools.count()


class Looked:
    """The last usage of a group, which holds for as long as its members took no CPU time since.

    Whoever does not run allocates nothing, forks nothing and is not throttled. What others may do to it (the kernel reclaims
    its pages) is seen after 16 looks, in turn: not all groups in the same.
    """

    __slots__ = ("_left", "_taken", "_usage")

    def __init__(self) -> None:
        self._taken = -1
        self._usage: Usage | None = None
        self._left = next(_turns) % _ANEW

    def unless_moved(self, taken: int) -> Usage | None:
        """The last usage, if its time was ``taken`` then as well; None: read all, and ``keep`` it."""
        if taken != self._taken or self._left <= 0:
            return None
        self._left -= 1
        return self._usage

    def keep(self, taken: int, usage: Usage) -> Usage:
        if self._left <= 0:
            self._left = _ANEW
        self._taken, self._usage = taken, usage
        return usage


class ControlGroup(ABC):
    """The control group of one sandbox, over as many hierarchies as hold it. Not for concurrent use."""

    paths: tuple[str, ...]

    @abstractmethod
    def entrances(self) -> tuple[int, ...]:
        """Kept descriptors: a process with a single thread that writes "0" to each of them is inside.

        That takes microseconds. To put in somebody else, or several threads, stops every fork and exit of the machine for
        an RCU grace period, which is milliseconds.
        """

    @abstractmethod
    def attach(self, pid: int) -> None:
        """Put a process in; the caller has made sure whose pid it is. Raises SandboxError."""

    @abstractmethod
    def apply(self, limits: Limits, max_pids: int | None = None) -> Limits:
        """Put limits in force; unstated amounts stay as they are. Returns what reads back.

        Raises SandboxError; then nothing was changed.
        """

    def deny_devices(self, numbers: Collection[tuple[int, int]]) -> bool:
        """Members may not use the character devices of these numbers; to be called before there are any.

        False where this kind of control group does not know devices (version 2 takes a program of BPF for it). Raises
        SandboxError.
        """
        return False

    @abstractmethod
    def read_back(self) -> Limits: ...

    @abstractmethod
    def usage(self) -> Usage | None:
        """None when the group is gone. Memory is the working set: use without inactive file cache."""

    @abstractmethod
    def kill(self) -> None:
        """Send SIGKILL to every member, those that fork meanwhile included. Does not wait."""

    @abstractmethod
    def out_of_memory_kills(self) -> int:
        """How many members the kernel ended because of the memory ceiling."""

    @abstractmethod
    def remove(self, timeout_s: float) -> bool:
        """Kill what is left and remove the folders. False when something was still there after ``timeout_s``."""

    @abstractmethod
    def close(self) -> None:
        """Close descriptors; the group itself stays, and further use opens them again."""

    def members(self) -> tuple[int, ...]:
        """Processes inside, sub-groups included; empty when the group is gone."""
        return members(self.paths[0]) if self.paths else ()


class ControlGroups(ABC):
    """What makes control groups here. ``reason`` says why less than everything is enforced ("" when all is)."""

    version: int
    enforces: tuple[str, ...]
    reason: str
    remedy: str
    owner: str

    @abstractmethod
    def create(self, name: str, limits: Limits, max_pids: int) -> ControlGroup | None:
        """A new group with its limits in force; None where there are no control groups.

        Raises SandboxError; then nothing is left behind.
        """

    @abstractmethod
    def open(self, paths: Collection[str]) -> ControlGroup | None:
        """The group at these paths, made earlier, perhaps by another process; None when it is gone or not ours."""

    @abstractmethod
    def capacity(self) -> Resources:
        """Cores and memory that the control groups above us leave us; None for what they do not limit."""

    @abstractmethod
    def sweep(self, alive: Collection[str] = ()) -> tuple[str, ...]:
        """Remove the folders of owners that are dead and not named in ``alive``, killing what is left in them.

        Returns the folders removed. Folders of other pid namespaces, and what is not Shardwright's, are not touched.
        """

    @abstractmethod
    def close(self) -> None:
        """Remove our own folder if nothing is in it."""


class NoCgroups(ControlGroups):
    """A machine, or a user, without control groups: nothing is enforced, and ``reason`` says why."""

    version = 0
    enforces = ()

    def __init__(self, reason: str, remedy: str = "", owner: str = "") -> None:
        self.reason = reason
        self.remedy = remedy or "permit control groups, or accept that ceilings are not enforced"
        self.owner = owner or owner_name()

    def __repr__(self) -> str:
        return f"NoCgroups({self.reason!r})"

    def create(self, name: str, limits: Limits, max_pids: int) -> ControlGroup | None:
        return None

    def open(self, paths: Collection[str]) -> ControlGroup | None:
        return None

    def capacity(self) -> Resources:
        return Resources()

    def sweep(self, alive: Collection[str] = ()) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        return None


def owner_name(pid: int | None = None) -> str:
    """The folder name of a process: pid and start time, and the pid namespace where it is not the first.

    Without the namespace a container's processes would look dead from outside, and the other way round.
    """
    pid = os.getpid() if pid is None else pid
    namespace = _pid_namespace()
    suffix = "" if namespace == _INITIAL_PID_NAMESPACE else f"-{namespace}"
    return f"{PREFIX}{pid}-{start_ticks(pid) or 0}{suffix}"


def _pid_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return _INITIAL_PID_NAMESPACE


def owner_is_dead(name: str) -> bool:
    """Whether that folder belongs to a process of our pid namespace that is certainly gone."""
    match = _OWNER.fullmatch(name)
    if match is None or int(match[3] or _INITIAL_PID_NAMESPACE) != _pid_namespace():
        return False
    stat = process_stat(int(match[1]))
    # a zombie has ended: its parent may be gone as well, and nobody waits for it
    return stat is None or stat.start_ticks != int(match[2]) or stat.state == "Z"


def quota_us(cores: float, period_us: int) -> int:
    """A CPU ceiling as time of each period. Raises SandboxError below what the kernel takes."""
    quota = round(cores * period_us)
    if quota < _MIN_QUOTA_US:
        least = _MIN_QUOTA_US / period_us
        raise SandboxError(
            f"cannot set the CPU ceiling to {cores:g} cores: the least is {least:g}", remedy=f"choose {least:g} or more"
        )
    return quota


def folder_name(name: str) -> str:
    """A shard id as the name of a folder."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).strip(".") or "_"


def is_ours(path: str, top: str) -> bool:
    """Whether that is a sandbox's folder in the hierarchy mounted at ``top``, by its name alone.

    Anywhere in it: who restarts may have been started in another control group than who made it.
    """
    if os.path.normpath(path) != path or not path.startswith(top.rstrip("/") + "/"):
        return False
    parts = path[len(top.rstrip("/")) + 1 :].split("/")
    return len(parts) >= 2 and _OWNER.fullmatch(parts[-2]) is not None


def stale_folders(base: str, own: str, alive: Collection[str]) -> list[str]:
    """Folders beneath ``base`` whose owner is dead."""
    try:
        names = os.listdir(base)
    except OSError:
        return []
    return [
        f"{base}/{name}"
        for name in sorted(names)
        if name.startswith(PREFIX) and name != own and name not in alive and owner_is_dead(name)
    ]


def sub_folders(folder: str) -> list[str]:
    """The folder and all beneath it, deepest first; nothing when it is gone."""
    return [path for path, _, _ in os.walk(folder, topdown=False)]


def members(folder: str) -> tuple[int, ...]:
    """Processes in a folder and beneath it. Pids that our pid namespace cannot name are left out."""
    found: list[int] = []
    for path in sub_folders(folder):
        found.extend(int(line) for line in (read_text(f"{path}/cgroup.procs") or "").split())
    return tuple(pid for pid in found if pid > 0)


def end_members(folder: str) -> None:
    """SIGKILL to everything in a folder, again while new members appear. Does not wait for their end.

    A pidfd is opened for each pid, then membership is read again: whoever is still listed is inside, and a pidfd that
    named an earlier process of that pid reaches nobody.
    """
    done: set[int] = set()
    for _ in range(_ROUNDS):
        descriptors: dict[int, int] = {}
        try:
            for pid in members(folder):
                if pid in done:
                    continue
                try:
                    descriptors[pid] = os.pidfd_open(pid)
                except OSError:
                    continue
            if not descriptors:
                return
            for pid in descriptors.keys() & set(members(folder)):
                _pidfd.send(descriptors[pid], signal.SIGKILL)
                done.add(pid)
        finally:
            for descriptor in descriptors.values():
                os.close(descriptor)


def remove_folders(folders: Iterable[str], timeout_s: float) -> bool:
    """Kill what is inside and remove the folders, which all hold the same processes. False when time ran out."""
    todo = [folder for folder in folders if os.path.isdir(folder)]
    deadline = time.monotonic() + timeout_s
    pause_s = 0.0005
    while todo:
        todo = [folder for folder in todo if not _remove_tree(folder)]
        if not todo:
            break
        for folder in todo:
            end_members(folder)
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)  # a folder tells nobody when its last member is gone: asking again is the only way
        pause_s = min(pause_s * 2, 0.02)
    return True


def remove_empty(folder: str, timeout_s: float = 0.5) -> bool:
    """Remove a folder that holds no other. What was in it last may be on its way out: asks again for a while."""
    end_s = time.monotonic() + timeout_s
    while True:
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            return True
        except OSError:
            if len(sub_folders(folder)) > 1 or time.monotonic() > end_s:
                return False
            time.sleep(0.005)
        else:
            return True


def _remove_tree(folder: str) -> bool:
    try:
        for path in sub_folders(folder):
            os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def make_folder(path: str) -> None:
    """One new folder. Raises SandboxError."""
    try:
        os.mkdir(path, 0o755)
    except FileExistsError as error:
        remedy = "give the shard an id of its own"
        raise SandboxError(f"control group {path} is there already", remedy=remedy) from error
    except OSError as error:
        raise SandboxError(
            f"cannot make control group {path}: {error.strerror}", remedy="see `shardwright doctor`"
        ) from error
