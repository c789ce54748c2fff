"""Matching: from which shards the needs of one composition could be met, all of them, against one roster.

Changes nothing. Instances of shared components: fewest sessions first, ready before starting. Session and request
scope: multiplexed where the manifest permits, else from the WarmPool, else a launch. Keys: the shard that serves the
key, and while that one still exists but takes no leases nobody else may serve it; else as before.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec import Struct, field

from shardwright.composition._roster import Entry, Roster, Spec
from shardwright.composition._values import Need, ShardStatus
from shardwright.model.ids import ComponentName, SessionNumber, ShardId
from shardwright.model.scope import ScopeKind


class Match(Struct):
    """How each need is met: by a shard, or (None) by a launch. ``evict`` must be gone before the launches fit."""

    chosen: list[tuple[Need, Entry | None]] = field(default_factory=list)
    evict: list[Entry] = field(default_factory=list)
    waits: str = ""  # why it cannot be granted now; empty when it can
    pinned: set[ShardId] = field(default_factory=set)  # shared instances and keys that somebody holds anyway
    consumes: bool = False  # takes something that is then not there for others


class Lack(Struct):
    """Cannot be met now, whoever idle is evicted."""

    reason: str
    component: ComponentName


def match(
    roster: Roster, session: SessionNumber, needs: Sequence[Need], preferred: Collection[ShardId] = ()
) -> Match | Lack:
    """How ``needs`` could be met for ``session``: now (``waits`` empty), after evictions, or not.

    Of the free shards those that are ``preferred`` come first.
    """
    found = Match()
    taken: set[ShardId] = set()
    launches: list[Spec] = []
    for need in needs:
        spec = roster.specs[need.component]
        entry = roster.lease_of(session, need) if spec.kind is not ScopeKind.REQUEST else None
        if entry is None:
            chosen = _choose(roster, session, need, spec, taken, preferred)
            if isinstance(chosen, Lack):
                return chosen
            entry = chosen
            if entry is None:
                launches.append(spec)
            if entry is None or not entry.sessions or spec.kind is ScopeKind.SESSION:
                found.consumes = True
            else:
                found.pinned.add(entry.id)
        if entry is not None:
            taken.add(entry.id)
        found.chosen.append((need, entry))
    if launches:
        lack = _make_room(roster, launches, taken, found)
        if lack is not None:
            return lack
    return found


def _choose(
    roster: Roster, session: SessionNumber, need: Need, spec: Spec, taken: set[ShardId], preferred: Collection[ShardId]
) -> Entry | Lack | None:
    """The shard to lease, or None for a launch."""
    if spec.kind is ScopeKind.SHARED:
        instances = [entry for entry in roster.by_component[spec.name].values() if entry.accepting]
        instances.sort(key=lambda e: (e.status is not ShardStatus.READY, len(e.sessions), e.created_s, e.id))
        return instances[0] if instances else None
    if spec.kind is ScopeKind.KEY and need.key is not None:
        owner = roster.by_key.get((spec.name, need.key))
        if owner is not None:
            return owner if owner.accepting else Lack(f"{owner.id}, which serves {need}, is draining", spec.name)
    if spec.kind is ScopeKind.SESSION and spec.component.sessions_per_shard > 1:
        joinable = [
            entry for entry in roster.by_component[spec.name].values() if entry.sessions and entry.may_join(session)
        ]
        if joinable:  # the fullest first, so that others empty and can be given back
            return min(joinable, key=lambda e: (e.status is not ShardStatus.READY, -len(e.sessions), e.id))
    free = [entry for entry in roster.free(spec.name) if entry.id not in taken]
    return next((entry for entry in free if entry.id in preferred), free[0] if free else None)


def _make_room(roster: Roster, launches: list[Spec], taken: set[ShardId], found: Match) -> Lack | None:
    """Choose whom to evict, of the shards that nobody holds, so that the launches stay within every bound."""
    idle = [e for entries in roster.unheld.values() for e in entries.values() if e.accepting and e.id not in taken]
    # the WarmPool and idle keys go before shared instances; among them who was idle longest
    idle.sort(key=lambda e: (e.spec.kind is ScopeKind.SHARED, e.idle_since_s or e.created_s, e.id))
    for spec in {spec.name: spec for spec in launches}.values():
        most = spec.most_shards
        if most is None:
            continue
        mine = roster.by_component[spec.name]
        count = sum(1 for launch in launches if launch.name == spec.name)
        excess = len(mine) + count - most
        if excess <= 0:
            continue
        found.waits = f"{spec.name} may have {most} shards, {len(mine)} exist and {count} more are needed"
        excess -= sum(1 for shard in roster.stopping if shard in mine)
        victims = [entry for entry in idle if entry.spec.name == spec.name][: max(0, excess)]
        if len(victims) < excess:
            return Lack(found.waits, spec.name)
        found.evict += victims
    limits = [spec.limits for spec in launches]
    if roster.capacity.fits(*limits):
        return None
    found.waits = roster.capacity.explain(*limits)
    gone = roster.stopping | {entry.id for entry in found.evict}
    more: list[Entry] = []
    for entry in idle:
        if roster.capacity.fits(*limits, without=gone):
            break
        if entry.id not in gone:
            gone.add(entry.id)
            more.append(entry)
    if not roster.capacity.fits(*limits, without=gone):
        return Lack(found.waits, launches[0].name)
    for entry in tuple(more):  # spare whom evicting does not help
        if roster.capacity.fits(*limits, without=gone - {entry.id}):
            gone.discard(entry.id)
            more.remove(entry)
    found.evict += more
    return None
