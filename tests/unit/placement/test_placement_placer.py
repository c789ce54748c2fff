"""Placing shards over cores and banks: against a solver, and on machines that nobody has here."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from placement_oracle import least_cost
from shardwright.model.ids import ShardId
from shardwright.placement import Bank, CorePlacer, Cpu, Home, ShardNeed, Topology

GIB = 2**30
CASES = 200 if os.environ.get("SWT_LONG") else 60
Traffic = dict[tuple[ShardId, ShardId], int]


def need(name: str, cpu: float = 0.0, *, usage: float = 0.0, gib: float = 0.0, **more: object) -> ShardNeed:
    return ShardNeed(ShardId(name), cpu, usage, int(gib * GIB), **more)  # type: ignore[arg-type]


def small_case(chance: random.Random) -> tuple[Topology, list[ShardNeed], Traffic]:
    banks = chance.choice((1, 2))
    topology = Topology.of(
        [(chance.choice((1, 2, 3)), chance.choice((1, 2)), chance.choice((2, 4)) * GIB) for _ in range(banks)],
        threads=chance.choice((1, 1, 2)),
    )
    needs = []
    for index in range(chance.randint(3, 7)):
        cpu = chance.choice((0.0, 0.1, 0.25, 0.4, 0.6))
        needs.append(
            need(
                f"s{index}", cpu, usage=cpu + chance.choice((0.0, 0.0, 0.3, 0.9)), gib=chance.choice((0.0, 0.25, 0.5, 1.0)),
                exclusive=chance.random() < 0.06, bank=chance.choice((None, None, None, 0)),
            )
        )  # fmt: skip
    traffic: Traffic = {}
    for _ in range(chance.randint(0, 6)):
        one, other = chance.sample(needs, 2)
        traffic[one.shard, other.shard] = chance.choice((20, 200, 2_000))
    return topology, needs, traffic


def check_guarantees(topology: Topology, needs: list[ShardNeed], homes: dict[ShardId, Home]) -> None:
    """From first principles: nothing is promised twice."""
    for cpu in topology.cpus:
        there = [each for each in needs if homes[each.shard].cpu == cpu.number]
        assert sum(round(each.cpu * 1000) for each in there) <= 1000, cpu
        assert len(there) <= 1 or not any(each.exclusive for each in there), cpu
    for bank in topology.banks:
        stored = sum(each.memory_bytes for each in needs if homes[each.shard].bank == bank.number)
        assert stored <= bank.memory_bytes, bank


def test_it_is_within_a_twentieth_of_the_best_there_is(record_exercised: Callable[[str, int], None]) -> None:
    chance = random.Random(5)
    worst, at_best = 0.0, 0
    for number in range(CASES):
        topology, needs, traffic = small_case(chance)
        best = least_cost(topology, needs, traffic)
        placing = CorePlacer(topology).place(needs, traffic)
        if best is None:
            assert placing.refused, f"case {number}: not all guarantees can be kept, and nobody was refused"
            kept = [each for each in needs if each.shard not in placing.refused]
            check_guarantees(topology, kept, dict(placing.homes))
            continue
        assert not placing.refused, f"case {number}: {placing.refused} refused, and all fit"
        check_guarantees(topology, needs, dict(placing.homes))
        assert placing.cost == CorePlacer(topology).cost(needs, traffic, placing.homes)
        assert placing.cost >= best, f"case {number}: the oracle overlooked {placing.cost} < {best}"
        worst = max(worst, (placing.cost - best) / best if best else float(placing.cost))
        at_best += placing.cost == best
        assert placing.cost <= best * 1.05, f"case {number}: {placing.cost} where {best} is possible"
    record_exercised("placings as good as the solver's", at_best)


@pytest.mark.parametrize(
    "topology",
    [
        Topology.even(2, 8, memory_bytes=16 * GIB),
        Topology.even(8, 16, caches=4, memory_bytes=64 * GIB),
        Topology.of([(4, 1, 8 * GIB), (12, 3, 48 * GIB), (2, 1, 4 * GIB)], threads=2),
    ],
    ids=["two banks", "128 cores", "asymmetric"],
)
def test_no_memory_is_far_that_fits_near(topology: Topology) -> None:
    chance = random.Random(8)
    room = sum(bank.memory_bytes for bank in topology.banks)
    needs: list[ShardNeed] = []
    while sum(each.memory_bytes for each in needs) < 0.6 * room and len(needs) < 60:
        needs.append(need(f"s{len(needs)}", chance.choice((0.05, 0.1)), gib=chance.choice((0.25, 0.5, 1.0))))
    placing = CorePlacer(topology).place(needs, {})
    assert not placing.refused
    check_guarantees(topology, needs, dict(placing.homes))
    bank_of = {cpu.number: cpu.bank for cpu in topology.cpus}
    assert all(bank_of[home.cpu] == home.bank for home in placing.homes.values())


def test_a_chatty_pair_shares_a_core_and_hogs_do_not() -> None:
    topology = Topology.even(1, 2)
    needs = [need("web", 0.1), need("auth", 0.1), need("hog", 0.5, usage=1.0), need("hog2", 0.2, usage=0.9)]
    homes = CorePlacer(topology).place(needs, {(ShardId("web"), ShardId("auth")): 50_000}).homes
    assert homes[ShardId("web")].cpu == homes[ShardId("auth")].cpu
    assert homes[ShardId("hog")].cpu != homes[ShardId("hog2")].cpu


def test_the_top_tier_has_its_core_alone() -> None:
    topology = Topology.even(2, 2, threads=2)
    needs = [need("top", 0.3, exclusive=True), *(need(f"s{index}", 0.2) for index in range(9))]
    placing = CorePlacer(topology).place(needs, {(ShardId("top"), ShardId("s1")): 10_000})
    assert not placing.refused
    check_guarantees(topology, needs, dict(placing.homes))
    homes = placing.homes
    sibling = {cpu.number: cpu.core for cpu in topology.cpus}
    assert sibling[homes[ShardId("s1")].cpu] == sibling[homes[ShardId("top")].cpu], "as near as may be"


def test_what_is_fixed_stays_and_a_device_draws() -> None:
    topology = Topology.even(2, 2)
    fixed = {ShardId("old"): Home(3, 1)}
    needs = [need("old", 0.9), need("new", 0.5, gib=1.0, bank=1), need("more", 0.5)]
    placing = CorePlacer(topology).place(needs, {}, fixed)
    assert placing.homes[ShardId("old")] == Home(3, 1)
    assert placing.homes[ShardId("new")] == Home(2, 1)


def test_who_does_not_fit_is_refused() -> None:
    topology = Topology.even(1, 2, memory_bytes=2 * GIB)
    placing = CorePlacer(topology).place([need("a", 0.7), need("b", 0.7), need("c", 0.6)], {})
    assert placing.refused == (ShardId("c"),)
    placing = CorePlacer(topology).place([need("a", gib=1.5), need("b", gib=1.0)], {})
    assert placing.refused == (ShardId("b"),)


def test_impossible_machines_are_refused() -> None:
    bank = Bank(0, GIB, {0: 10})
    for cpus, banks in (((), (bank,)), ((Cpu(0, 0, 0, 1),), (bank,)), ((Cpu(0, 0, 0, 0),) * 2, (bank,))):
        with pytest.raises(ValueError, match="processor"):
            Topology(cpus, banks)
