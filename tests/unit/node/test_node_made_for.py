"""What one shard may have made for its calls: bounded by caller and component, given back, waited for in turn."""

from __future__ import annotations

import asyncio

import pytest

from shardwright.errors import Overloaded
from shardwright.model.ids import ComponentName, ShardId
from shardwright.node._made_for import MOST_IN_USE, MOST_KEPT, MadeFor

EVIL, GOOD, CLERK = ShardId("evil-1"), ShardId("good-1"), ComponentName("clerk")


async def fill(made_for: MadeFor, caller: ShardId, count: int, kind: str = "request") -> list[ShardId]:
    shards = [ShardId(f"clerk-{caller}-{number}") for number in range(count)]
    for shard in shards:
        await made_for.take(caller, CLERK, kind)  # type: ignore[arg-type]
        made_for.made(shard, caller, CLERK)
    return shards


def test_one_caller_finds_an_end_and_others_do_not_notice() -> None:
    async def run() -> None:
        made_for = MadeFor(lambda component: False, patience_s=0.01)
        await fill(made_for, EVIL, MOST_IN_USE)
        with pytest.raises(Overloaded, match="evil-1 has 64 shards of clerk in use") as told:
            await made_for.take(EVIL, CLERK, "request")
        assert "max_instances" in told.value.remedy
        await made_for.take(EVIL, ComponentName("other"), "request")
        await fill(made_for, GOOD, MOST_IN_USE)

    asyncio.run(run())


def test_the_next_has_its_turn_when_one_is_given_back() -> None:
    async def run() -> None:
        made_for = MadeFor(lambda component: False)
        shards = await fill(made_for, EVIL, MOST_IN_USE)
        order: list[int] = []

        async def wait(number: int) -> None:
            await made_for.take(EVIL, CLERK, "request")
            order.append(number)

        waiting = [asyncio.ensure_future(wait(number)) for number in range(3)]
        await asyncio.sleep(0)
        assert order == []
        waiting[0].cancel()  # whoever gives up takes nobody's place
        await asyncio.wait({waiting[0]})
        made_for.done(shards[0])
        made_for.done(shards[0])
        await waiting[1]
        made_for.not_made(EVIL, CLERK)  # what it was for failed
        await waiting[2]
        assert order == [1, 2]
        made_for.not_made(EVIL, CLERK)
        for shard in shards:
            made_for.done(shard)
        assert not made_for._counts and not made_for._waiting and not made_for._accounts

    asyncio.run(run())


def test_a_place_that_nobody_takes_any_more_goes_on() -> None:
    async def run() -> None:
        made_for = MadeFor(lambda component: False)
        shards = await fill(made_for, EVIL, MOST_IN_USE)
        waiting = asyncio.ensure_future(made_for.take(EVIL, CLERK, "request"))
        await asyncio.sleep(0)
        made_for.done(shards[0])
        waiting.cancel()
        await asyncio.wait({waiting})
        await made_for.take(EVIL, CLERK, "request")  # at once
        assert made_for._counts[EVIL, CLERK] == MOST_IN_USE

    asyncio.run(run())


def test_keys_end_without_waiting_and_count_once() -> None:
    async def run() -> None:
        made_for = MadeFor(lambda component: False)
        shards = await fill(made_for, EVIL, MOST_KEPT, "key")
        with pytest.raises(Overloaded, match="1024 shards of clerk made for its keys"):
            await made_for.take(EVIL, CLERK, "key")
        await made_for.take(GOOD, CLERK, "key")
        made_for.made(shards[0], GOOD, CLERK)  # evil made it meanwhile
        assert made_for._counts[GOOD, CLERK] == 0
        made_for.done(shards[0])
        await made_for.take(EVIL, CLERK, "key")

    asyncio.run(run())


def test_what_the_manifest_bounds_is_left_to_it() -> None:
    async def run() -> None:
        made_for = MadeFor(lambda component: True, patience_s=0.01)
        await fill(made_for, EVIL, 2 * MOST_IN_USE)

    asyncio.run(run())
