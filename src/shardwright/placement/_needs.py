"""What a placer is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from shardwright.model.ids import ShardId


class ShardNeed(Struct, frozen=True):
    """What a shard is guaranteed, and what it was seen to use. ``exclusive``: nobody else on its processor.

    ``cpu`` and ``usage`` in cores, at most one: wider shards are given as parts. ``bank`` is where a device of its is.
    """

    shard: ShardId
    cpu: float = 0.0
    usage: float = 0.0
    memory_bytes: int = 0
    exclusive: bool = False
    bank: int | None = None


class Home(Struct, frozen=True):
    """Where a shard runs and where its memory is."""

    cpu: int
    bank: int


class Placing(Struct, frozen=True):
    """A decision: homes, what it costs, and who could not be given what is guaranteed to them."""

    homes: Mapping[ShardId, Home]
    cost: int
    refused: tuple[ShardId, ...] = ()


Traffic = Mapping[tuple[ShardId, ShardId], int]
"""Synchronous calls between two shards, in any unit that is the same for all."""
