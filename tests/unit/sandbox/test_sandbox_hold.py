"""A box held to processors while its threads come and go, and one that has ended."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from shardwright.errors import SandboxError
from shardwright.sandbox import pin
from shardwright.sandbox._linux import _hold

HERE = frozenset(os.sched_getaffinity(0))


def test_threads_that_end_meanwhile_cost_no_further_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look finds one more that has ended before it could be asked."""
    looks = 0

    def tasks(pid: int) -> list[int]:
        nonlocal looks
        looks += 1
        return [2**22 + looks, pid]  # above any pid that the kernel gives

    monkeypatch.setattr(_hold, "_tasks", tasks)
    assert pin(os.getpid(), HERE) == HERE
    assert looks == 1


def test_threads_that_stay_elsewhere_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    def elsewhere(task: int) -> set[int]:
        nonlocal looks
        looks += 1
        if looks % 3 == 0:
            raise ProcessLookupError
        return {max(HERE) + 1}

    monkeypatch.setattr(_hold, "_tasks", lambda pid: [pid, pid, pid])
    monkeypatch.setattr(os, "sched_getaffinity", elsewhere)
    with pytest.raises(SandboxError, match="does not stay"):
        pin(os.getpid(), HERE)
    assert looks == 3 * _hold._ROUNDS


def test_a_process_that_has_ended_is_held_to_nothing() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert pin(ended.pid, HERE) == frozenset()
