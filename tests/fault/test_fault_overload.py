"""Too much at once, too late, given up, or asked for by somebody who died: a clear error, and life goes on for others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import shardwright
from shardwright.errors import DeadlineExceeded, Overloaded, ShardLost
from shardwright.node import Node
from shardwright.testing._faults import becomes

BUSY = Path(__file__).parent / "apps" / "busy"
QUEUE = 8  # as the manifest says
Record = Callable[[str, int], None]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with shardwright.start(BUSY, state=tmp_path) as running:
        yield running


def memory_of(node: Node, component: str) -> int:
    return sum(s.usage.memory_bytes for s in node.shards() if s.component == component and s.usage is not None)


def test_a_full_queue_refuses_at_once_and_holds_no_more_memory(node: Node, record_exercised: Record) -> None:
    load = b"x" * 100_000
    with node.session("crowd") as session:
        session.call("slow.nap", 0.0)
        before = memory_of(node, "slow")
        begun = threading.Barrier(101)
        answers: list[tuple[str, float]] = []

        def call() -> None:
            begun.wait(30)
            start = time.monotonic()
            try:
                session.call("slow.nap", 0.05, "crowd", load)
                answers.append(("done", time.monotonic() - start))
            except Overloaded as refused:
                assert refused.outcome == "not started"
                answers.append(("refused", time.monotonic() - start))

        first = threading.Thread(target=session.call, args=("slow.nap", 2.0))
        first.start()
        threads = [threading.Thread(target=call) for _ in range(100)]
        for thread in threads:
            thread.start()
        begun.wait(30)
        refused = becomes(lambda: sum(kind == "refused" for kind, _ in answers) >= 100 - QUEUE - 1, 1.9)
        assert refused is not None, "they must be refused while the shard is still busy"
        held = memory_of(node, "slow") - before
        for thread in [first, *threads]:
            thread.join(30)
        served = sum(kind == "done" for kind, _ in answers)
        assert len(answers) == 100
        assert QUEUE - 1 <= served <= QUEUE + 1
        assert held < 40 * len(load), f"{held} bytes are held for {QUEUE} calls of {len(load)}"
        assert session.call("slow.nap", 0.0, "afterwards") == 0
        record_exercised("calls refused at once by a full queue", 100 - served)


def test_a_deadline_is_kept_by_caller_queue_and_callee(node: Node) -> None:
    with node.session("hurried") as session:
        session.call("slow.nap", 0.0)
        blocker = threading.Thread(target=session.call, args=("slow.nap", 1.0, "blocker"))
        blocker.start()
        assert becomes(lambda: any(s.component == "slow" for s in node.shards()), 5) is not None
        time.sleep(0.1)
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            session.with_timeout(0.2).call("slow.nap", 0.0, "queued in vain")
        assert 0.15 < time.monotonic() - begun < 0.8
        blocker.join(10)
        assert session.call("slow.nap", 0.0, "last") == 0
        assert session.call("slow.napped")[-2:] == ["blocker", "last"], "what was too late must not run"
        with pytest.raises(DeadlineExceeded):  # the deadline travels on, through the one in the middle
            session.with_timeout(0.3).call("middle.wait", "through", 30.0)
        assert becomes(lambda: ("through", "cancelled") in session.call("waits.ends"), 3) is not None


def test_cancelling_an_awaited_call_cancels_the_callee(tmp_path: Path) -> None:
    async def story() -> None:
        async with shardwright.astart(BUSY, state=tmp_path) as node, await node.session("async") as session:
            for target in ("waits.wait", "middle.wait"):
                task = asyncio.create_task(session.call(target, target, 30.0))

                async def said(what: tuple[str, str]) -> bool:
                    for _ in range(300):
                        if what in await session.call("waits.ends"):
                            return True
                        await asyncio.sleep(0.01)
                    return False

                assert await said((target, "begun"))
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert await said((target, "cancelled"))
            assert await session.call("waits.wait", "short", 0.0) == "short"

    asyncio.run(story())


def test_a_caller_that_dies_with_calls_in_flight_leaves_its_callee_to_others(
    node: Node, record_exercised: Record
) -> None:
    with node.session("lives") as lives:
        for number in range(5):
            with node.session(f"dies-{number}") as dies:
                process = dies.call("middle.process")
                lost: list[BaseException] = []

                def call(target: str, *arguments: object, dies=dies, lost=lost) -> None:
                    with contextlib.suppress(ShardLost):
                        dies.call(target, *arguments)
                        lost.append(AssertionError(f"{target} returned"))

                threads = [
                    threading.Thread(target=call, args=("middle.nap", 0.3, f"of the dead {number}")),
                    threading.Thread(target=call, args=("middle.wait", f"dead {number}", 30.0)),
                ]
                for thread in threads:
                    thread.start()
                begun = f"dead {number}", "begun"
                assert becomes(lambda begun=begun: begun in lives.call("waits.ends"), 5) is not None
                os.kill(process, signal.SIGKILL)
                for thread in threads:
                    thread.join(10)
                assert not lost
                assert lives.call("slow.nap", 0.0, f"served {number}") == 0
                cancelled = f"dead {number}", "cancelled"
                assert becomes(lambda cancelled=cancelled: cancelled in lives.call("waits.ends"), 5) is not None
                assert dies.call("middle.nap", 0.0, "the next call works") == 0
                record_exercised("callers killed with calls in flight", 1)
