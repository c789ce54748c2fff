"""A session as the node knows it."""

from __future__ import annotations

from msgspec import Struct, field

from shardwright.model.ids import SessionNumber, ShardId


class LiveSession(Struct):
    """A session as the node knows it."""

    number: SessionNumber
    name: str
    begun_s: float
    told: set[ShardId] = field(default_factory=set)  # shards that know its name
