"""A session as the node knows it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from shardwright.guest import CallContext
from shardwright.model.ids import SessionNumber, ShardId


@dataclass(slots=True)
class LiveSession:
    """A session as the node knows it."""

    number: SessionNumber
    name: str
    begun_s: float
    told: set[ShardId] = field(default_factory=set)  # shards that know its name
    contexts: Iterator[CallContext] = field(
        default_factory=lambda: iter(())
    )  # of first calls, made ahead; each is taken once
