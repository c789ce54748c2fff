"""A door: what lies there is taken once, by a name that nobody has, in C and in Python alike."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from typing import Any

import pytest

from shardwright.model.ids import SessionNumber
from shardwright.node._alarm import Alarm
from shardwright.node._door import PlainDoor
from shardwright.node._live_session import LiveSession
from shardwright.transport import shm

COMPILED = pytest.param(
    lambda names, taken: shm.Door(names, taken),
    id="compiled",
    marks=pytest.mark.skipif(not shm.available(), reason="the C extension was not built"),
)
PLAIN = pytest.param(lambda names, taken: PlainDoor(names, taken, lambda: None), id="plain")


class Shouted(str):
    """A text that compares in its own way."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise AssertionError("nothing may be asked of it")

    __hash__ = str.__hash__


@pytest.fixture(params=[COMPILED, PLAIN])
def door(request: pytest.FixtureRequest) -> Any:
    names: dict[str, Any] = {"used": 1}
    taken: list[Any] = []
    made = request.param(names, taken)
    return made, names, taken


def live(number: int) -> LiveSession:
    return LiveSession(SessionNumber(number), "", 0.0)


def test_what_lies_there_is_had_by_a_name(door: Any) -> None:
    made, names, taken = door
    assert made.take("early") is None and made.waits is None and made.withdraw() is None
    mine, thing = live(7), object()
    made.lay(thing, mine, 7, (), ())
    with pytest.raises(ValueError, match="something lies there"):
        made.lay(thing, mine, 8, (), ())
    for refused in ("used", "", "x" * 201, "a\nb", 5, None, Shouted("shouted")):
        assert made.take(refused) is None
    assert made.waits is thing and taken == [] and names == {"used": 1} and mine.name == ""
    assert made.take("mine") is mine and mine.name == "mine"
    assert made.waits is None and taken == [thing] and names == {"used": 1, "mine": 7}
    assert made.take("other") is None and made.withdraw() is None


def test_what_is_withdrawn_is_nobody_s(door: Any) -> None:
    made, names, taken = door
    thing = object()
    made.lay(thing, live(1), 1, (), ())
    assert made.withdraw() is thing
    assert made.take("late") is None and taken == [] and "late" not in names


def test_one_of_many_threads_has_it(door: Any, record_exercised: Callable[[str, int], None]) -> None:
    made, names, taken = door
    rounds, threads = 200, 4
    together = threading.Barrier(threads + 1)
    had: list[list[Any]] = [[] for _ in range(threads)]
    withdrawn: list[Any] = []

    def grasp(which: int) -> None:
        for number in range(rounds):
            together.wait(30)
            if (found := made.take(f"{which}-{number}")) is not None:
                had[which].append(found)
            together.wait(30)

    began = [threading.Thread(target=grasp, args=(which,)) for which in range(threads)]
    for thread in began:
        thread.start()
    for number in range(rounds):
        made.lay(number, live(number), number, (), ())
        together.wait(30)
        if (back := made.withdraw()) is not None:
            withdrawn.append(back)
        together.wait(30)
    for thread in began:
        thread.join(30)
    numbers = [int(each.number) for mine in had for each in mine]
    assert sorted([*numbers, *withdrawn]) == list(range(rounds)) and sorted(taken) == sorted(numbers)
    assert len(names) == len(numbers) + 1
    record_exercised("things taken or withdrawn, each once", rounds)


@pytest.mark.skipif(not shm.available(), reason="the C extension was not built")
def test_its_timer_rings_when_something_was_taken() -> None:
    import asyncio

    async def one() -> bool:
        alarm = Alarm(lambda: None, 0.001)
        try:
            door = shm.Door({}, [])
            door.rings(alarm.descriptor, alarm.delay_ns)
            asyncio.get_running_loop().remove_reader(alarm.descriptor)
            door.lay(object(), live(1), 1, (), ())
            early = bool(select.select([alarm.descriptor], [], [], 0.02)[0])
            assert door.take("mine") is not None
            rung = bool(select.select([alarm.descriptor], [], [], 5)[0])
            os.read(alarm.descriptor, 8)
            door.rings(-1, 0)
            door.lay(object(), live(2), 2, (), ())
            assert door.take("other") is not None
            late = bool(select.select([alarm.descriptor], [], [], 0.02)[0])
            return rung and not early and not late
        finally:
            alarm.close()

    assert asyncio.run(one())
