"""Waiting for what comes about by itself."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["eventually"]


def eventually(holds: Callable[[], bool], timeout_s: float = 30.0) -> bool:
    """Whether it holds within that time; looks every 5 ms, and returns as soon as it does."""
    end_s = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.005)
    return True
