"""Makers of sandboxes. Each backend is a room of its own, imported by whoever wires a node."""

from shardwright.sandbox._linux._libc import PR_SET_CHILD_SUBREAPER, prctl
from shardwright.sandbox._linux._procfs import start_ticks

__all__ = ["become_subreaper", "process_start_ticks"]


def become_subreaper() -> None:
    """Orphans of this process's descendants become its children, so that somebody reaps them. Raises OSError."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def process_start_ticks(pid: int) -> int | None:
    """When that process started, in clock ticks since boot; None when there is none."""
    return start_ticks(pid)
