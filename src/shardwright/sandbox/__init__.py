"""Makers of sandboxes. Each backend is a room of its own, imported by whoever wires a node."""

from shardwright.sandbox._linux._libc import PR_SET_CHILD_SUBREAPER, prctl

__all__ = ["become_subreaper"]


def become_subreaper() -> None:
    """Orphans of this process's descendants become its children, so that somebody reaps them. Raises OSError."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
