"""The composition root of one machine."""

from shardwright.node._face import (
    AsyncNode,
    AsyncSession,
    Node,
    Options,
    Running,
    Session,
    ShardStatus,
    astart,
    plan,
    start,
    state_folder,
)

__all__ = [
    "AsyncNode",
    "AsyncSession",
    "Node",
    "Options",
    "Running",
    "Session",
    "ShardStatus",
    "astart",
    "plan",
    "start",
    "state_folder",
]
