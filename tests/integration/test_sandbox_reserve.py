"""Control groups made for a process to come, which goes in by itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from shardwright.contracts.sandbox import SandboxHandle
from shardwright.model.ids import ShardId
from shardwright.model.limits import Limits, Resources
from shardwright.sandbox import outside_of, process_start_ticks
from shardwright.sandbox.process import ProcessBackend

LIMITS = Limits(ceiling=Resources(memory_bytes=64 << 20))


@pytest.fixture
def backend() -> Iterator[ProcessBackend]:
    made = ProcessBackend()
    if not made.groups.version:
        pytest.skip("no control groups here")
    yield made
    made.close()


def _fork(entrances: tuple[int, ...]) -> int:
    """A child that waits, inside of those."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        for entrance in entrances:
            os.write(entrance, b"0")
        os.write(told, b"+")
        signal.pause()
        os._exit(0)
    assert os.read(ready, 1) == b"+"
    os.close(ready)
    os.close(told)
    return pid


def _handle(shard: str, pid: int) -> SandboxHandle:
    return SandboxHandle(1, "process", ShardId(shard), pid, process_start_ticks(pid) or 0)


def test_who_goes_in_is_inside(backend: ProcessBackend) -> None:
    shard = f"reserved-{os.getpid()}"
    pid = _fork(backend.reserve(shard, LIMITS))
    sandbox = backend.adopt(_handle(shard, pid), LIMITS)
    assert sandbox is not None and sandbox.handle.control_groups
    assert outside_of(pid, sandbox.handle.control_groups) == ""
    assert sandbox.resize(Limits()).ceiling.memory_bytes == 64 << 20, "in force from the first"
    sandbox.delete()

    assert not any(os.path.exists(folder) for folder in sandbox.handle.control_groups)


def test_who_stays_out_is_found_out(backend: ProcessBackend) -> None:
    shard = f"reserved-{os.getpid()}"
    entrances = backend.reserve(shard, LIMITS)
    pid = _fork(entrances[:-1])
    sandbox = backend.adopt(_handle(shard, pid), LIMITS)
    assert sandbox is not None
    assert outside_of(pid, sandbox.handle.control_groups) in sandbox.handle.control_groups
    sandbox.delete()


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_what_is_not_needed_is_removed_with_who_is_inside(backend: ProcessBackend, how: str) -> None:
    shard = f"reserved-{os.getpid()}"
    entrances = backend.reserve(shard, LIMITS)
    folders = {os.path.dirname(os.readlink(f"/proc/self/fd/{entrance}")) for entrance in entrances}
    assert folders and all(map(os.path.isdir, folders))
    pid = _fork(entrances)
    backend.cancel(shard) if how == "cancel" else backend.close()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert not any(map(os.path.exists, folders))
