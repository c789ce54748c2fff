"""Makers of sandboxes. Each backend is a room of its own, imported by whoever wires a node."""

from __future__ import annotations

import os
from collections.abc import Collection

from shardwright.sandbox._linux._gpu import FoundGpus, device_files, find_gpus, gpu_environment
from shardwright.sandbox._linux._hold import box_members, pause, pin, unpause
from shardwright.sandbox._linux._libc import PR_SET_CHILD_SUBREAPER, prctl
from shardwright.sandbox._linux._links import ShapedLink
from shardwright.sandbox._linux._places import hosts_of
from shardwright.sandbox._linux._procfs import read_text, start_ticks

__all__ = [
    "FoundGpus", "ShapedLink", "become_subreaper", "box_members", "device_files", "find_gpus", "gpu_environment",
    "hosts_of", "outside_of", "pause", "pin", "process_start_ticks", "unpause",
]  # fmt: skip


def become_subreaper() -> None:
    """Orphans of this process's descendants become its children, so that somebody reaps them. Raises OSError."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def outside_of(pid: int, control_groups: Collection[str]) -> str:
    """The first of these control groups that does not hold the whole process; empty when all do."""
    try:
        threads = set(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        threads = {str(pid)}
    for folder in control_groups:
        inside = read_text(f"{folder}/tasks") or read_text(f"{folder}/cgroup.threads") or ""
        if not threads <= set(inside.split()):
            return folder
    return ""


def process_start_ticks(pid: int) -> int | None:
    """When that process started, in clock ticks since boot; None when there is none."""
    return start_ticks(pid)
