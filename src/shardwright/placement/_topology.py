"""What a machine is made of, as far as it matters where a shard runs: cores, caches they share, memory banks.

Plain data; ``node`` reads it from /sys, tests make it up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from msgspec import Struct

SAME_CORE, SIBLING, SAME_CACHE, SAME_BANK, OTHER_BANK = 0, 1, 2, 3, 6
"""How far two cores are from each other, in the unit that traffic is weighed by.

A synchronous caller and callee that share a core answer each other by a switch; everybody else waits until another core wakes.
"""


class Cpu(Struct, frozen=True):
    """One logical processor. ``core`` is shared by SMT siblings, ``cache`` by those with one last-level cache."""

    number: int
    core: int
    cache: int
    bank: int


class Bank(Struct, frozen=True):
    """A memory bank (NUMA node). ``distances`` to the other banks as firmware tells them: 10 is near."""

    number: int
    memory_bytes: int
    distances: Mapping[int, int]


class Topology(Struct, frozen=True):
    """Raises ValueError when a processor lies at a bank that is not there, or a number occurs twice."""

    cpus: tuple[Cpu, ...]
    banks: tuple[Bank, ...]

    def __post_init__(self) -> None:
        for what, numbers in (
            ("processors", [cpu.number for cpu in self.cpus]),
            ("banks", [bank.number for bank in self.banks]),
        ):
            twice = [number for number, count in Counter(numbers).items() if count > 1]
            if twice:
                raise ValueError(f"{what} that are there twice: {twice}")
        unknown = {cpu.bank for cpu in self.cpus} - {bank.number for bank in self.banks}
        if unknown or not self.cpus:
            raise ValueError(f"processors at unknown banks: {sorted(unknown)}" if unknown else "no processor at all")

    def distance(self, one: Cpu, other: Cpu) -> int:
        if one.number == other.number:
            return SAME_CORE
        if one.core == other.core:
            return SIBLING
        if one.bank != other.bank:
            return OTHER_BANK
        return SAME_CACHE if one.cache == other.cache else SAME_BANK

    @classmethod
    def even(
        cls, banks: int, cores: int, *, threads: int = 1, caches: int = 1, memory_bytes: int = 64 * 2**30
    ) -> Topology:
        """Equal banks, at each: ``cores`` of ``threads`` each, in ``caches`` groups, and ``memory_bytes``."""
        return cls.of([(cores, caches, memory_bytes)] * banks, threads=threads)

    @classmethod
    def of(cls, parts: Iterable[tuple[int, int, int]], *, threads: int = 1) -> Topology:
        """A machine whose banks have each so many cores, caches and bytes: they need not be equal."""
        shapes = list(parts)
        cpus: list[Cpu] = []
        core = cache = 0
        for bank, (cores, caches, _) in enumerate(shapes):
            for index in range(cores):
                for _thread in range(threads):
                    cpus.append(Cpu(len(cpus), core, cache + index * caches // max(1, cores), bank))
                core += 1
            cache += caches
        numbers = range(len(shapes))
        return cls(
            tuple(cpus),
            tuple(
                Bank(bank, memory, {other: 10 if other == bank else 21 for other in numbers})
                for bank, (_, _, memory) in enumerate(shapes)
            ),
        )
