"""The invariants of composition, recomputed from the roster itself and not from how it came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shardwright.composition._queue import Waiting
from shardwright.composition._roster import Roster
from shardwright.composition._values import Need
from shardwright.errors import InternalError
from shardwright.model.ids import SessionNumber, ShardId
from shardwright.model.scope import ScopeKind


def check(
    roster: Roster,
    queue: Sequence[Waiting],
    compositions: Mapping[int, tuple[SessionNumber, tuple[tuple[Need, ShardId], ...]]],
) -> None:
    """Raises InternalError that names the first invariant found broken:

    guarantees within capacity, and reserved for exactly the shards that exist; no more shards of a component than
    permitted; a shard is leased or free, never both; leases agree on both sides; no trust domains mixed; a composition
    in progress holds all of its shards; a queued request is in progress nowhere else.
    """
    roster.capacity.check()
    for name, spec in roster.specs.items():
        count = sum(1 for entry in roster.shards.values() if entry.spec.name == name and not entry.replaced)
        if spec.most_shards is not None and count > spec.most_shards:
            raise InternalError(f"{name} has {count} shards, {spec.most_shards} are permitted")
    holders: dict[ShardId, set[SessionNumber]] = {shard: set() for shard in roster.shards}
    for session in roster.sessions.values():
        for shard in session.shards:
            if shard not in holders:
                raise InternalError(f"session {session.number} holds {shard}, which is gone")
            holders[shard].add(session.number)
    for entry in roster.shards.values():
        if not roster.capacity.holds(entry.id):
            raise InternalError(f"{entry.id} has no reservation")
        if entry.sessions != holders[entry.id]:
            raise InternalError(f"{entry.id} thinks that {entry.sessions} hold it, in truth {holders[entry.id]} do")
        if bool(entry.sessions) is (entry.id in roster.unheld[entry.spec.name]):
            raise InternalError(f"{entry.id} is leased and free, or neither")
        if entry.stopping and entry.sessions:
            raise InternalError(f"{entry.id} is being stopped while {entry.sessions} hold it")
        if entry.key is not None and roster.by_key.get((entry.spec.name, entry.key)) is not entry:
            raise InternalError(f"{entry.id} serves key {entry.key!r}, and is not its only owner")
        _check_domains(entry.id, entry.spec.kind, len(entry.sessions), entry.spec.component.sessions_per_shard)
        if not entry.spec.component.reuse and entry.spec.kind is not ScopeKind.SHARED:
            slots = entry.spec.component.sessions_per_shard if entry.spec.kind is ScopeKind.SESSION else 1
            if len(entry.history) > slots:
                raise InternalError(f"{entry.id} served {sorted(entry.history)}, {slots} permitted without reuse")
            if entry.used and entry.free:
                raise InternalError(f"{entry.id} was used, may not be reused, and is free")
    waiting = {each.request for each in queue}
    for request, (number, needs) in compositions.items():
        if request in waiting:
            raise InternalError(f"request {request} is queued and granted")
        for need, shard in needs:
            if number not in holders.get(shard, ()):
                raise InternalError(f"request {request} counts on {need} at {shard}, which its session does not hold")


def _check_domains(shard: ShardId, kind: ScopeKind, sessions: int, slots: int) -> None:
    most = {ScopeKind.SESSION: slots, ScopeKind.REQUEST: 1}.get(kind)
    if most is not None and sessions > most:
        raise InternalError(f"{shard} ({kind.value} scope) serves {sessions} sessions, {most} permitted")
