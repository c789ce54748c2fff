"""Identities and addresses of channels."""

from __future__ import annotations

from msgspec import Struct

from shardwright.model.ids import ComponentName, SessionNumber, ShardId


class Peer(Struct, frozen=True):
    """The verified other side of a channel: the node said so when it handed the channel over.

    ``sessions`` lists the session numbers in whose name it may call; ``None`` means any.
    """

    component: ComponentName
    shard: ShardId
    sessions: frozenset[SessionNumber] | None = None
    may_call: bool = True


class Endpoint(Struct, frozen=True):
    """One end of a channel, ready to be handed to the process that will hold it.

    ``descriptors`` are file descriptors that belong to whoever holds the endpoint; opening or closing it uses them up.
    """

    transport: str
    descriptors: tuple[int, ...]
