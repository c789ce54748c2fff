"""How many bytes of calls may wait in a shard, and in whose name."""

from __future__ import annotations

import pytest

from shardwright.errors import Overloaded
from shardwright.guest._kept import MOST_BYTES, KeptBytes, most_bytes
from shardwright.model.ids import ShardId

MIB = 1 << 20
A, B, C = ShardId("a-1"), ShardId("b-1"), ShardId("c-1")


def test_the_bound_follows_the_memory_ceiling() -> None:
    assert most_bytes(None) == MOST_BYTES
    assert most_bytes(64 * MIB) == 16 * MIB
    assert most_bytes(64 << 30) == MOST_BYTES


def test_all_callers_together_stay_below_the_bound_and_each_below_half() -> None:
    kept = KeptBytes("bank", 16 * MIB)
    for number in range(8):
        kept.take(("a", number), A, MIB)
    with pytest.raises(Overloaded, match="8 MiB of them from a-1"):
        kept.take(("a", 8), A, MIB)
    for number in range(8):
        kept.take(("b", number), B, MIB)
    kept.take("first", C, 100)  # small ones are bounded by their number
    with pytest.raises(Overloaded) as refused:
        kept.take("second", C, MIB)
    assert refused.value.outcome == "not started"
    assert kept.total == 16 * MIB
    kept.give(("a", 0))
    kept.give(("a", 0))
    kept.take("third", C, MIB)
    for caller, number in [("a", n) for n in range(1, 8)] + [("b", n) for n in range(8)]:
        kept.give((caller, number))
    kept.give("third")
    assert kept.total == 0


def test_what_finds_nothing_waiting_is_taken() -> None:
    kept = KeptBytes("bank", 16 * MIB)
    kept.take("large", A, 60 * MIB)
    with pytest.raises(Overloaded):
        kept.take("more", B, MIB)
    kept.give("large")
    kept.take("more", B, MIB)
