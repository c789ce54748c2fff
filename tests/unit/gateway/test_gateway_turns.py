"""The end of a turn of the loop, deadlines, and random bytes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from shardwright.gateway._deadlines import EXACT_BELOW_NS, SLOT_NS, Deadlines
from shardwright.gateway._random import random_bytes
from shardwright.gateway._turns import TurnLoop, at_end_of_turn, run_in_turns


def test_an_action_is_done_once_behind_all_that_was_ready() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        at_end = at_end_of_turn(loop)
        said: list[str] = []

        def say(what: str) -> bool:
            said.append(what)
            return False

        def turn() -> None:
            for number in range(3):
                at_end(partial(say, f"end {number}"))
                loop.call_soon(said.append, "next turn")
            said.append("turn")

        loop.call_soon(turn)
        loop.call_soon(said.append, "same turn")
        while len(said) < 8:
            await asyncio.sleep(0)
        assert said == ["turn", "same turn", "end 0", "end 1", "end 2", "next turn", "next turn", "next turn"]

    run_in_turns(main())


def test_what_an_action_schedules_does_not_wait_for_the_world() -> None:
    """Nothing else would wake the loop."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def action() -> bool:
            done.set_result(None)
            return True

        at_end_of_turn(loop)(action)
        async with asyncio.timeout(10):
            await done

    run_in_turns(main())


def test_another_loop_does_it_at_its_next_turn() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert not isinstance(loop, TurnLoop)
        done = asyncio.Event()
        at_end_of_turn(loop)(lambda: bool(loop.call_soon(done.set)))
        await asyncio.wait_for(done.wait(), 10)

    asyncio.run(main())


class Waiting:
    def __init__(self) -> None:
        self.late_at_ns = 0

    def late(self) -> None:
        self.late_at_ns = time.monotonic_ns()


class Clock:
    """A loop's timers, and nothing else."""

    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []

    def call_at(self, when_s: float, callback: Callable[..., None], *args: Any) -> Any:
        timer = (when_s, callback, args)
        self.timers.append(timer)
        clock = self

        class Handle:
            def cancel(self) -> None:
                if timer in clock.timers:
                    clock.timers.remove(timer)

        return Handle()


def test_many_deadlines_have_few_timers() -> None:
    clock = Clock()
    deadlines = Deadlines(clock)  # type: ignore[arg-type]
    now_ns = time.monotonic_ns()
    waiting = [Waiting() for _ in range(1000)]
    slots = [deadlines.add(now_ns + 30_000_000_000 + n, each) for n, each in enumerate(waiting)]
    assert len(clock.timers) == 1 and len(deadlines) == 1000
    for each, slot in zip(waiting, slots, strict=True):
        deadlines.drop(each, slot)
        deadlines.drop(each, slot)
    assert len(deadlines) == 0
    deadlines.close()
    assert not clock.timers


@pytest.mark.parametrize("after_ns", [0, 20_000_000, EXACT_BELOW_NS + SLOT_NS])
def test_nobody_is_told_early_and_nobody_is_forgotten(after_ns: int) -> None:
    async def main() -> None:
        deadlines = Deadlines(asyncio.get_running_loop())
        first, second, dropped = Waiting(), Waiting(), Waiting()
        deadline_ns = time.monotonic_ns() + after_ns
        for each in (first, second):
            deadlines.add(deadline_ns, each)
        deadlines.drop(dropped, deadlines.add(deadline_ns, dropped))
        async with asyncio.timeout(20):
            while not (first.late_at_ns and second.late_at_ns):
                await asyncio.sleep(0.005)
        granted_ns = 2_000_000  # by the loop's own clock
        assert min(first.late_at_ns, second.late_at_ns) > deadline_ns - granted_ns
        assert not dropped.late_at_ns and len(deadlines) == 0
        deadlines.close()

    asyncio.run(main())


def test_random_bytes_are_given_once_also_after_a_fork() -> None:
    given = [random_bytes(count) for count in (16, 8, 16, 5000, 16) for _ in range(400)]
    assert len(set(given)) == len(given) and {len(each) for each in given} == {8, 16, 5000}
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, random_bytes(16))
        os._exit(0)
    mine = random_bytes(16)
    os.waitpid(child, 0)
    theirs = os.read(reading, 16)
    os.close(reading)
    os.close(writing)
    assert len(theirs) == 16 and theirs != mine
