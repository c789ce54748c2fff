"""Amounts of resources: guarantee, ceiling, usage."""

from __future__ import annotations

from msgspec import Struct


class Resources(Struct, frozen=True):
    """Amounts of each resource; ``None`` says that nothing was stated.

    ``cpu`` in cores, memory in bytes, ``io`` in bytes per second, ``network`` in bits per second, ``gpu`` as a share
    of one device.
    """

    cpu: float | None = None
    memory_bytes: int | None = None
    io_bytes_s: int | None = None
    network_bits_s: int | None = None
    gpu: float | None = None
    gpu_memory_bytes: int | None = None

    def plus(self, other: Resources) -> Resources:
        """The sum, field by field; an unstated amount counts as nothing."""
        sums = {}
        for name in self.__struct_fields__:
            mine, theirs = getattr(self, name), getattr(other, name)
            sums[name] = None if mine is None and theirs is None else (mine or 0) + (theirs or 0)
        return Resources(**sums)

    def exceeds(self, capacity: Resources) -> tuple[str, ...]:
        """Names of the resources of which this asks more than ``capacity`` states."""
        over = []
        for name in self.__struct_fields__:
            mine, limit = getattr(self, name), getattr(capacity, name)
            # a hair of slack: sums of decimal fractions of a core are not exact
            if mine is not None and limit is not None and mine > limit * (1 + 1e-9):
                over.append(name)
        return tuple(over)


class Limits(Struct, frozen=True):
    """The pair of what a shard always gets (guarantee) and the most it may borrow (ceiling)."""

    guarantee: Resources = Resources()
    ceiling: Resources = Resources()


class Usage(Struct, frozen=True):
    """What a shard takes at one moment. ``cpu_s`` is cumulative CPU time in seconds."""

    cpu_s: float
    memory_bytes: int
    threads: int = 0
    throttled_s: float = 0.0
