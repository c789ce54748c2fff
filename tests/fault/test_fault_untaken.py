"""A shard that dies before it took a call from the channel has not begun it: the call goes to another."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shardwright
from guest_apps import write_application
from shardwright.errors import ShardLost
from shardwright.transport import shm
from waiting import eventually

if not shm.available():
    pytest.skip(shm.reason(), allow_module_level=True)

MANIFEST = """
[app]
name = "untaken"
[policy]
node_grace = "0s"
[components.front]
code = "front"
state = "none"
[components.pool]
code = "pool"
state = "none"
scale = { min = 2, max = 2 }
[components.held]
code = "held"
"""
FRONT = """
import asyncio, threading
import pool

begun, answers = [], []

def begin(count):
    def one():
        begun.append(1)
        try:
            answers.append(pool.work())
        except BaseException as error:
            answers.append(repr(error))
    for _ in range(count):
        threading.Thread(target=one, daemon=True).start()

def begin_async(count):
    async def main():
        async def one():
            begun.append(1)
            return await pool.work_async()
        answers.extend([item if not isinstance(item, BaseException) else repr(item)
                        for item in await asyncio.gather(*[one() for _ in range(count)], return_exceptions=True)])
    threading.Thread(target=asyncio.run, args=(main(),), daemon=True).start()

def told():
    return len(begun), list(answers)
"""
POOL = """
import os
ran = []

def work():
    ran.append(1)
    return os.getpid()

async def work_async():
    ran.append(1)
    return os.getpid()

def times():
    return os.getpid(), len(ran)
"""
HELD = "import os\ncount = 0\ndef more():\n    global count\n    count += 1\n    return count\n"
CALLS = 12


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Any]:
    folder = write_application(tmp_path / "app", MANIFEST, front=FRONT, pool=POOL, held=HELD)
    with shardwright.start(folder, state=tmp_path / "state") as found:
        yield found


def stand_still(pid: int) -> bool:
    """Whether all its threads do: that a signal was sent stops none yet."""
    tasks = Path(f"/proc/{pid}/task").glob("*/stat")
    return all(task.read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)


@contextlib.contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """They take nothing meanwhile; what is left of them goes on afterwards."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert eventually(lambda: all(map(stand_still, pids)))
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def pids_of(node: Any, component: str) -> list[int]:
    return [shard.pid for shard in node.shards() if shard.component == component and shard.status == "ready"]


def in_flight(node: Any) -> int:
    bindings = list(node.running.client.router._bindings.values())
    return sum(link.in_flight for binding in bindings for link in binding.links)


@pytest.mark.parametrize("way", ["begin", "begin_async"])
def test_calls_that_nobody_took_go_to_another(
    node: Any, way: str, record_exercised: Callable[[str, int], None]
) -> None:
    with node.session() as session:
        first, second = pids_of(node, "pool")
        for _ in range(4):  # both are bound, and the quick way is known
            session.call("front.begin", 4)
        assert eventually(lambda: session.call("front.told") == (16, session.call("front.told")[1]))
        assert eventually(lambda: len(session.call("front.told")[1]) == 16)
        with stopped([first, second]):
            session.call(f"front.{way}", CALLS)
            assert eventually(lambda: session.call("front.told")[0] == 16 + CALLS)
            own: list[Any] = []
            callers = [threading.Thread(target=lambda: own.append(session.call("pool.work"))) for _ in range(CALLS)]
            for caller in callers:
                caller.start()
            assert eventually(lambda: in_flight(node) >= CALLS)
            os.kill(first, signal.SIGKILL)
        assert eventually(lambda: len(session.call("front.told")[1]) == 16 + CALLS)
        for caller in callers:
            caller.join(30)
        answers = session.call("front.told")[1][16:]
        assert all(isinstance(answer, int) and answer != first for answer in answers), answers
        assert len(own) == CALLS and first not in own
        there = dict(session.call("pool.times") for _ in range(8))
        assert sum(there.values()) >= 2 * CALLS, "each ran"
        record_exercised("calls in the channel of a shard that died before it took them", 2 * CALLS)


def test_where_state_is_lost_it_is_told_that_the_call_was_not_begun(node: Any) -> None:
    with node.session() as session:
        assert session.call("held.more") == 1
        (pid,) = pids_of(node, "held")
        found: list[BaseException] = []

        def call() -> None:
            with pytest.raises(ShardLost) as lost:
                session.call("held.more")
            found.append(lost.value)

        with stopped([pid]):
            caller = threading.Thread(target=call)
            caller.start()
            assert eventually(lambda: in_flight(node) == 1)
            os.kill(pid, signal.SIGKILL)
        caller.join(30)
        (error,) = found
        assert isinstance(error, ShardLost) and error.outcome == "not started", error
        assert session.call("held.more") == 1
