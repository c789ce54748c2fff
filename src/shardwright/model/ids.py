"""Identifiers. All are strings or integers with a name of their own, so that mypy keeps them apart."""

from __future__ import annotations

import random
from typing import NewType

ComponentName = NewType("ComponentName", str)
ShardId = NewType("ShardId", str)  # "<component>-<8 hex digits>", unique within a node's life
SessionId = NewType("SessionId", str)  # the user's name for a session
SessionNumber = NewType("SessionNumber", int)  # u64 on the wire; 0 is "no session"
MethodId = NewType("MethodId", int)  # u32, index of an entry point in its definition, fixed at plan time
ObjectId = NewType("ObjectId", int)  # u64, unguessable name of an object behind a handle

NO_SESSION = SessionNumber(0)


def new_shard_id(component: ComponentName, random_source: random.Random) -> ShardId:
    """A fresh shard id; randomness comes in as an argument."""
    return ShardId(f"{component}-{random_source.getrandbits(32):08x}")
