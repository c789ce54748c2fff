"""Who listens to what becomes of shards and requests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from shardwright.contracts.sandbox import Exit
from shardwright.model.ids import ComponentName, SessionNumber, ShardId
from shardwright.node._port import ShardPort


class ShardEvents(Protocol):
    """Who listens: the node's core."""

    def record(
        self,
        kind: str,
        reason: str,
        *,
        component: str = "",
        shard: str = "",
        session: str = "",
        inputs: Iterable[tuple[str, object]] = (),
    ) -> None: ...

    def session_name(self, number: int) -> str: ...

    def last_lines(self, shard: str) -> tuple[str, ...]:
        """What it printed last."""

    def session_lives(self, number: SessionNumber) -> bool: ...

    def shard_ready(self, port: ShardPort, sessions: tuple[SessionNumber, ...]) -> None:
        """It may be called from now on."""

    def shard_ended(
        self, shard: ShardId, component: ComponentName, reason: str, by_itself: Exit | None = None
    ) -> None: ...

    def composed(self, result: str, took_s: float) -> None:
        """A request for shards was answered: granted, refused, lost (and begun again) or cancelled."""

    def leased(self, component: str, source: str) -> None:
        """A shard was leased that had been warm, that was starting, or that is launched for it (cold)."""

    def lacks_room(self) -> None:
        """A request waits, or a launch was refused, for want of room."""

    def session_left(self, number: SessionNumber, shard: ShardId) -> None:
        """The session goes on, but not there."""
