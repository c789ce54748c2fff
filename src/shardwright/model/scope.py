"""How long a shard lives, for whom, and what becomes of its state."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class Start(StrEnum):
    """How shards of a component begin: forked from a template, or as a fresh interpreter."""

    AUTO = "auto"
    TEMPLATE = "template"
    SPAWN = "spawn"


class StateKind(StrEnum):
    """What becomes of a shard's state when it dies."""

    AUTO = "auto"
    NONE = "none"
    MEMORY = "memory"
    JOURNAL = "journal"
    REPLICA = "replica"


class ScopeKind(StrEnum):
    """Who shares one shard."""

    SHARED = "shared"
    SESSION = "session"
    REQUEST = "request"
    KEY = "key"


class Scope(Struct, frozen=True):
    """``shared | session | request | key:<argument name>``."""

    kind: ScopeKind = ScopeKind.SHARED
    argument: str = ""

    def __str__(self) -> str:
        return f"key:{self.argument}" if self.kind is ScopeKind.KEY else self.kind.value
