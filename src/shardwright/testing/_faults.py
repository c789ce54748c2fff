"""The fault kit: what is left of a node's processes, and a fair judge of what a death may cost its callers."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from msgspec import Struct, field

Place = tuple[str, str]
"""Where a call may run: component, and the key or session that narrows it down (empty for shared ones)."""


class Kill(Struct, frozen=True):
    """One shard ended by force at a moment of CLOCK_MONOTONIC."""

    place: Place
    at_s: float


class Failure(Struct, frozen=True):
    """One failed call of one session: over which places it went, when, and whether its outcome is unknown."""

    session: str
    places: frozenset[Place]
    begun_s: float
    ended_s: float
    unknown: bool
    why: str = ""


class Verdicts(Struct):
    """Kills and failures of a run, to be judged at its end. Safe from any thread."""

    kills: list[Kill] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    def killed(self, kill: Kill) -> None:
        with self._mutex:
            self.kills.append(kill)

    def failed(self, failure: Failure) -> None:
        with self._mutex:
            self.failures.append(failure)

    def hits(self) -> int:
        """Kills while a call was in flight there that then failed with its outcome unknown."""
        return sum(
            any(f.unknown and k.place in f.places and f.begun_s <= k.at_s <= f.ended_s for f in self.failures)
            for k in self.kills
        )

    def unexplained(self) -> list[Failure]:
        """Failures that no kill explains. A kill explains at most one failure of each session."""
        found: list[Failure] = []
        for session in {failure.session for failure in self.failures}:
            spent: set[int] = set()
            for failure in sorted((f for f in self.failures if f.session == session), key=lambda f: f.ended_s):
                reason = next(
                    (
                        index
                        for index, kill in enumerate(self.kills)
                        if index not in spent and kill.place in failure.places and kill.at_s <= failure.ended_s
                    ),
                    None,
                )
                if reason is None:
                    found.append(failure)
                else:
                    spent.add(reason)
        return found

    def story(self) -> str:
        """For each session with a failure that no kill explains: all kills and failures at those places, in order."""
        lines = []
        for odd in self.unexplained():
            lines.append(f"{odd.session}: {sorted(odd.places)}")
            events = [(k.at_s, f"  {k.at_s:.4f} {k.place} killed") for k in self.kills if k.place in odd.places]
            events += [
                (f.ended_s, f"  {f.begun_s:.4f} - {f.ended_s:.4f} failed: {f.why}")
                for f in self.failures
                if f.session == odd.session and f.places & odd.places
            ]
            lines += [line for _, line in sorted(events)]
        return "\n".join(lines)


def processes_marked(mark: str) -> dict[int, str]:
    """Running processes (no zombies) whose environment or command line holds ``mark``, with their command lines."""
    needle = mark.encode()
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        folder = Path("/proc", entry)
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes()
            if not command:  # a zombie, or a thread of the kernel
                continue
            if needle in command or needle in (folder / "environ").read_bytes():
                found[int(entry)] = command.replace(b"\0", b" ").decode("utf-8", "replace").strip()
    return found


def control_groups(prefix: str = "shardwright") -> frozenset[str]:
    """All folders of control groups of ours on this machine, the topmost of each tree."""
    roots = set()
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        mount, _, source = line.partition(" - ")
        if source.split(" ", 1)[0] in ("cgroup", "cgroup2"):
            roots.add(mount.split(" ")[4])
    found = set()
    for root in roots:
        for path, folders, _ in os.walk(root):
            for name in list(folders):
                if name.startswith(prefix):
                    found.add(os.path.join(path, name))
                    folders.remove(name)
    return frozenset(found)


def members(folders: Iterable[str]) -> set[int]:
    """The processes in those control groups and beneath."""
    found: set[int] = set()
    for folder in folders:
        for path, _, _ in os.walk(folder):
            with contextlib.suppress(OSError):
                found.update(int(pid) for pid in Path(path, "cgroup.procs").read_text().split())
    return found


def becomes(condition: Callable[[], object], within_s: float) -> float | None:
    """Seconds until ``condition()`` held, or None when it did not in time."""
    begun_s = time.monotonic()
    while True:
        if condition():
            return time.monotonic() - begun_s
        if time.monotonic() - begun_s > within_s:
            return None
        time.sleep(0.01)
