"""The ledger of guarantees."""

from __future__ import annotations

import random

import pytest

from shardwright.errors import InternalError
from shardwright.model.ids import ShardId
from shardwright.model.limits import Limits, Resources
from shardwright.placement import Capacity

MIB = 2**20


def limits(cpu: float | None = None, memory_bytes: int | None = None, gpu: float | None = None) -> Limits:
    return Limits(Resources(cpu=cpu, memory_bytes=memory_bytes, gpu=gpu), Resources(cpu=64.0, memory_bytes=2**40))


def shard(number: int) -> ShardId:
    return ShardId(f"web-{number:08x}")


def test_reserve_is_never_given_to_shards_and_cpu_is_overcommitted() -> None:
    capacity = Capacity(
        Resources(cpu=2.2, memory_bytes=1024 * MIB), Resources(cpu=0.2, memory_bytes=512 * MIB), overcommit_cpu=1.5
    )
    assert capacity.usable() == Resources(cpu=3.0, memory_bytes=512 * MIB)
    assert capacity.fits(limits(3.0, 512 * MIB))
    assert not capacity.fits(limits(3.01))
    assert not capacity.fits(limits(1.0, 513 * MIB)), "memory is not overcommitted"


def test_only_guarantees_count_and_an_unstated_one_is_nothing() -> None:
    capacity = Capacity(Resources(cpu=1.0, memory_bytes=MIB))
    for number in range(1000):
        capacity.reserve(shard(number), limits())
    assert capacity.reserved().cpu == 0
    assert capacity.fits(limits(1.0, MIB))


def test_what_lacks_is_named_with_its_amount() -> None:
    capacity = Capacity(Resources(cpu=2.0, memory_bytes=256 * MIB))
    capacity.reserve(shard(1), limits(1.5, 200 * MIB))
    assert capacity.explain(limits(0.5, 56 * MIB)) == ""
    assert capacity.explain(limits(1.0, 64 * MIB)) == (
        "cpu (cores): 1 asked, 0.5 of 2 left, 0.5 too little; "
        "memory: 64MiB asked, 56MiB of 256MiB left, 8MiB too little"
    )


def test_several_are_judged_together_and_those_who_leave_are_counted_as_gone() -> None:
    capacity = Capacity(Resources(cpu=2.0))
    capacity.reserve(shard(1), limits(1.0))
    assert capacity.fits(limits(1.0))
    assert not capacity.fits(limits(0.6), limits(0.6))
    assert capacity.fits(limits(0.6), limits(0.6), without=[shard(1)])


def test_a_resource_that_nobody_stated_is_not_limited_and_zero_is_none_at_all() -> None:
    assert Capacity(Resources(cpu=1.0)).fits(limits(gpu=4.0))
    assert not Capacity(Resources(cpu=1.0, gpu=0.0)).fits(limits(gpu=0.25))


def test_reserving_twice_or_too_much_or_releasing_twice_changes_nothing() -> None:
    capacity = Capacity(Resources(cpu=1.0))
    capacity.reserve(shard(1), limits(0.75))
    with pytest.raises(ValueError, match="already"):
        capacity.reserve(shard(1), limits(0.1))
    with pytest.raises(ValueError, match=r"cpu .*too little"):
        capacity.reserve(shard(2), limits(0.5))
    assert capacity.reserved().cpu == 0.75
    capacity.release(shard(1))
    with pytest.raises(ValueError, match="no reservation"):
        capacity.release(shard(1))
    assert capacity.reserved().cpu == 0
    with pytest.raises(ValueError, match="overcommit_cpu"):
        Capacity(Resources(cpu=1.0), overcommit_cpu=0.0)


def test_a_hundred_thousand_tenths_of_a_core_leave_no_dust() -> None:
    dice = random.Random(7)
    capacity = Capacity(Resources(cpu=1.0))
    held: list[ShardId] = []
    for number in range(20_000):
        if len(held) == 10 or (held and dice.random() < 0.5):
            capacity.release(held.pop(dice.randrange(len(held))))
        else:
            capacity.reserve(shard(number), limits(0.1))
            held.append(shard(number))
    capacity.check()
    assert capacity.reserved().cpu == pytest.approx(len(held) / 10, abs=0)


def test_check_finds_books_that_do_not_balance() -> None:
    capacity = Capacity(Resources(cpu=1.0))
    capacity.reserve(shard(1), limits(0.5))
    capacity._reserved["cpu"] += 1
    with pytest.raises(InternalError, match="sum to"):
        capacity.check()
    capacity._reserved["cpu"] = capacity._shards[shard(1)]["cpu"] = 2_000_000
    with pytest.raises(InternalError, match="2000000 reserved of 1000000"):
        capacity.check()
