"""The composer's books, brought up to date before anybody looks at them or decides from them.

A session that was composed ahead (``_composed_ahead``) is taken by the thread that begins it, and entered a moment later.
Whoever looks at the roster meanwhile must find it entered, and whoever is about to take what was set apart must have it first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from shardwright.composition import (
    Composer,
    Decision,
    Effect,
    Launch,
    Loss,
    Need,
    Refused,
    SessionRecord,
    ShardRecord,
)
from shardwright.model.ids import ComponentName, SessionNumber, ShardId
from shardwright.model.manifest import Component
from shardwright.model.shard import ShardPlan


class SetApart(Protocol):
    """What was promised from the books, and is not in them."""

    @property
    def ready(self) -> bool:
        """Whether something is set apart now."""

    def settle(self) -> None:
        """Enter what was taken."""

    def withdraw(self, shard: ShardId | None = None) -> None:
        """Set nothing apart any more; with ``shard``, if that one was."""


class Ledger(Composer):
    """A Composer for whom others keep something apart."""

    apart: SetApart | None = None

    def _look(self) -> None:
        if self.apart is not None:
            self.apart.settle()

    def _decide(self, shard: ShardId | None = None) -> None:
        if self.apart is not None:
            self.apart.settle()
            self.apart.withdraw(shard)

    # -- views -------------------------------------------------------------------------------------------------

    def shards(self) -> tuple[ShardRecord, ...]:
        self._look()
        return super().shards()

    def instances(self, component: ComponentName) -> tuple[ShardRecord, ...]:
        self._look()
        return super().instances(component)

    def serves(self, component: ComponentName, key: str | None) -> bool:
        self._look()
        return super().serves(component, key)

    def has(self, session: SessionNumber, component: ComponentName, key: str | None, now: float) -> ShardId | None:
        self._look()
        return super().has(session, component, key, now)

    def shard(self, shard: ShardId) -> ShardRecord | None:
        self._look()
        return super().shard(shard)

    def sessions(self) -> tuple[SessionRecord, ...]:
        self._look()
        return super().sessions()

    def lease(self, session: SessionNumber, component: ComponentName, key: str | None = None) -> ShardId | None:
        self._look()
        return super().lease(session, component, key)

    def held_by(self, session: SessionNumber) -> tuple[ShardId, ...]:
        self._look()
        return super().held_by(session)

    # -- decisions ---------------------------------------------------------------------------------------------

    def compose(
        self,
        request: int,
        session: SessionNumber,
        needs: Sequence[Need],
        now: float,
        deadline_s: float | None = None,
        preferred: frozenset[ShardId] = frozenset(),
    ) -> Decision:
        self._look()
        free = self.would_take(session, needs) if self.apart is not None and self.apart.ready else None
        if free is None:  # nothing may be left apart, or nothing is: but it may have been taken since the look
            self._decide()
        else:
            for shard in free:
                self._decide(shard)
        return super().compose(request, session, needs, now, deadline_s, preferred)

    def poll(self, now: float) -> tuple[Decision, ...]:
        self._look()
        if self.queued():
            self._decide()
        return super().poll(now)

    def replace(self, shard: ShardId, now: float, reason: str) -> Launch | Refused:
        self._decide(shard)
        return super().replace(shard, now, reason)

    def supersede(self, shard: ShardId, now: float) -> tuple[SessionNumber, ...]:
        self._decide(shard)
        return super().supersede(shard, now)

    def take_up(self, plan: ShardPlan, components: Mapping[ComponentName, Component]) -> None:
        self._decide()
        super().take_up(plan, components)

    def exited(self, shard: ShardId, now: float, reason: str = "it exited") -> Loss:
        self._decide(shard)
        return super().exited(shard, now, reason)

    def touch(self, session: SessionNumber, now: float) -> None:
        self._look()
        super().touch(session, now)

    def release_request(self, shard: ShardId, now: float) -> tuple[Effect, ...]:
        self._look()
        return super().release_request(shard, now)

    def end_session(self, session: SessionNumber, now: float) -> tuple[Effect, ...]:
        self._look()
        return super().end_session(session, now)

    def expire(
        self, now: float, spared: Callable[[ShardId, float], bool] = lambda shard, timeout_s: False
    ) -> tuple[Effect, ...]:
        self._look()
        return super().expire(now, spared)

    def drain(self, shard: ShardId, now: float, reason: str = "it was told to drain") -> tuple[Effect, ...]:
        self._decide(shard)
        return super().drain(shard, now, reason)

    def evict(self, shard: ShardId, now: float, reason: str) -> tuple[Effect, ...]:
        self._decide(shard)
        return super().evict(shard, now, reason)
