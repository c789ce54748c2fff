"""Which shards a session gets: leases, launches, bindings and their ends. Pure decisions; see ``Composer``."""

from shardwright.composition._composer import Composer, keep_below_maximum
from shardwright.composition._needs import needs_of
from shardwright.composition._values import (
    Abort,
    Decision,
    Effect,
    Granted,
    Inputs,
    Launch,
    Lease,
    Loss,
    Need,
    Queued,
    Refused,
    ReturnToPool,
    SessionRecord,
    ShardRecord,
    ShardStatus,
    Stop,
    Unbind,
)

__all__ = [
    "Abort",
    "Composer",
    "Decision",
    "Effect",
    "Granted",
    "Inputs",
    "Launch",
    "Lease",
    "Loss",
    "Need",
    "Queued",
    "Refused",
    "ReturnToPool",
    "SessionRecord",
    "ShardRecord",
    "ShardStatus",
    "Stop",
    "Unbind",
    "keep_below_maximum",
    "needs_of",
]
