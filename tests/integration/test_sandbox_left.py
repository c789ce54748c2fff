"""What was reserved for a shard and is not needed goes, though somebody is in there still when it is cancelled."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from limits_here import need_limits
from shardwright.model.limits import Limits
from shardwright.sandbox.process import ProcessBackend, _backend


def folders(owner: str) -> list[Path]:
    return [path for path in Path("/sys/fs/cgroup").rglob(owner) if path.is_dir()]


def test_a_reserved_group_that_is_not_empty_yet_goes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    need_limits()
    monkeypatch.setattr(_backend, "_CANCEL_S", 0.0)
    backend = ProcessBackend()
    owner = backend.groups.owner
    entrances = [os.dup(each) for each in backend.reserve("left-1", Limits())]
    pid = os.fork()
    if pid == 0:
        for entrance in entrances:
            os.write(entrance, b"0")
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    try:
        os.waitpid(pid, os.WUNTRACED)
        backend.cancel("left-1")
        kept = backend.left
        assert kept, "it was in there still, and is not forgotten"
        os.waitpid(pid, 0)
        backend.remove_left(5.0)
        assert not backend.left
    finally:
        for entrance in entrances:
            os.close(entrance)
        backend.close()
    assert not folders(owner)
