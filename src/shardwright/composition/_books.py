"""The composer's books, and what they answer: which shards and sessions there are, who has what, what is left.

Questions alone: nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct, field

from shardwright.composition._check import check
from shardwright.composition._match import Match, match
from shardwright.composition._needs import needs_of
from shardwright.composition._queue import Waiting
from shardwright.composition._roster import Entry, Roster
from shardwright.composition._values import Need, SessionRecord, ShardRecord, ShardStatus
from shardwright.model.ids import NO_SESSION, ComponentName, SessionNumber, ShardId
from shardwright.model.limits import Resources
from shardwright.model.scope import ScopeKind
from shardwright.model.shard import ShardPlan


class Composition(Struct):
    """One that was granted and waits for shards to become ready."""

    request: int
    session: SessionNumber
    needs: tuple[tuple[Need, ShardId], ...]
    waits_for: set[ShardId] = field(default_factory=set)


class Books:
    """What a composer knows."""

    def __init__(self, plan: ShardPlan, roster: Roster) -> None:
        self._plan = plan
        self._roster = roster
        self._queue: list[Waiting] = []
        self._compositions: dict[int, Composition] = {}
        self._closures: dict[ComponentName, tuple[Need, ...]] = {}

    def shards(self) -> tuple[ShardRecord, ...]:
        return tuple(entry.record() for entry in self._roster.shards.values())

    def instances(self, component: ComponentName) -> tuple[ShardRecord, ...]:
        """The shards of one component."""
        return tuple(entry.record() for entry in self._roster.by_component[component].values())

    def serves(self, component: ComponentName, key: str | None) -> bool:
        """Whether there is a shard for that key."""
        return key is not None and (component, key) in self._roster.by_key

    def shard(self, shard: ShardId) -> ShardRecord | None:
        entry = self._roster.shards.get(shard)
        return entry.record() if entry else None

    def most_shards(self, component: ComponentName) -> int | None:
        """The most shards that the manifest permits; None when only capacity limits them."""
        return self._roster.specs[component].most_shards

    def sessions(self) -> tuple[SessionRecord, ...]:
        return tuple(entry.record(self._roster) for entry in self._roster.sessions.values())

    def held_by(self, session: SessionNumber) -> tuple[ShardId, ...]:
        """The shards that the session holds."""
        entry = self._roster.sessions.get(session)
        return tuple(dict.fromkeys(entry.shards)) if entry is not None else ()

    def queued(self) -> tuple[int, ...]:
        """The requests that wait, oldest first."""
        return tuple(waiting.request for waiting in self._queue)

    def reserved(self) -> Resources:
        """The sum of the guarantees of all shards that exist."""
        return self._roster.capacity.reserved()

    def left(self) -> Resources:
        """What may still be guaranteed; resources that are not limited are None."""
        return self._roster.capacity.left()

    def next_deadline_s(self) -> float | None:
        """When ``poll`` must be asked at the latest."""
        return min((w.deadline_s for w in self._queue if w.deadline_s is not None), default=None)

    def lease(self, session: SessionNumber, component: ComponentName, key: str | None = None) -> ShardId | None:
        """The shard that the session holds for that component and key, whole or not; None: ``acquire`` it."""
        entry = self._roster.lease_of(session, Need(component, key))
        return entry.id if entry else None

    def check(self) -> None:
        """Raises InternalError that names the first invariant found broken. For tests, and for a node in doubt."""
        check(self._roster, self._queue, {c.request: (c.session, c.needs) for c in self._compositions.values()})

    def at_hand(self, needs: Sequence[Need]) -> tuple[tuple[Need, ShardId], ...] | None:
        """The shards that a new session with these needs would be granted now, if all of them are ready and nobody waits.

        Decides nothing. None where a shard would have to be launched or waited for, or would be shared with a session.
        """
        found = self._match_at_once(NO_SESSION, needs)
        if found is None:
            return None
        chosen = []
        for need, entry in found.chosen:
            shared = entry is not None and entry.spec.kind is ScopeKind.SHARED
            if entry is None or entry.status is not ShardStatus.READY or (entry.sessions and not shared):
                return None
            chosen.append((need, entry.id))
        return tuple(chosen)

    def would_take(self, session: SessionNumber, needs: Sequence[Need]) -> tuple[ShardId, ...] | None:
        """The free shards that ``compose`` would lease. Decides nothing. None where it would evict any, or wait."""
        found = self._match_at_once(session, unique(needs, self._roster))
        if found is None:
            return None
        return tuple(entry.id for _, entry in found.chosen if entry is not None and not entry.sessions)

    def has(self, session: SessionNumber, component: ComponentName, key: str | None, now: float) -> ShardId | None:
        """The shard that ``acquire`` would name, where the session has all that it would ask for, and all of it is ready.

        Decides nothing, but notes that the session was heard of, as ``acquire`` does. None: ask there.
        """
        entry = self._roster.sessions.get(session)
        if entry is None or self._queue or self._roster.specs[component].kind is ScopeKind.REQUEST:
            return None
        shard: Entry | None = None
        for need in self._late_needs(component, key):
            hold = entry.holds.get(need)
            if hold is None or not hold.settled:
                return None
            shard = self._roster.shards[hold.shard]
            if shard.status is not ShardStatus.READY:
                return None
        if shard is None:
            return None
        entry.touched_s = max(entry.touched_s, now)
        return shard.id

    def _match_at_once(self, session: SessionNumber, needs: Sequence[Need]) -> Match | None:
        """How the needs would be met, where nobody is waited for and nobody evicted."""
        found = match(self._roster, session, needs) if not self._queue else None
        return found if isinstance(found, Match) and not found.waits and not found.evict else None

    def _late_needs(self, component: ComponentName, key: str | None) -> tuple[Need, ...]:
        """What may be called of shared and session scope through that component, and last itself."""
        if component not in self._closures:
            self._closures[component] = needs_of(self._plan, (component,))
        return (*(need for need in self._closures[component] if need.component != component), Need(component, key))


def unique(needs: Iterable[Need], roster: Roster) -> tuple[Need, ...]:
    """Each need once, in order; request-scoped ones as often as they are named."""
    unique: list[Need] = []
    for need in needs:
        if need not in unique or roster.specs[need.component].kind is ScopeKind.REQUEST:
            unique.append(need)
    return tuple(unique)
