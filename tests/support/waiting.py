"""Waiting for what comes about by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["eventually", "forked_ahead", "what_is"]


def eventually(holds: Callable[[], bool], timeout_s: float = 30.0) -> bool:
    """Whether it holds within that time; looks every 5 ms, and returns as soon as it does."""
    end_s = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.005)
    return True


def forked_ahead(node: Any) -> bool:
    """Whether the fork that waits for the next shard of each kind is there: it holds descriptors, too."""
    ahead = node.running.core.launcher._ahead
    return not ahead._making and set(ahead._timers) == set(ahead._waiting)


def what_is(pid: int) -> str:
    """What a process that ought to be gone does instead: its name, state, parents, and where it waits."""
    found = ""
    for name in ("status", "wchan", "stack"):
        try:
            found += Path(f"/proc/{pid}/{name}").read_text() + "\n"
        except OSError as error:
            found += f"{name}: {error}\n"
    return found
