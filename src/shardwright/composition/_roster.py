"""The roster: every shard, who holds it, and what every session holds. State and its bookkeeping; no decisions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from msgspec import Struct, field

from shardwright.composition._values import Lease, Need, SessionRecord, ShardRecord, ShardStatus
from shardwright.errors import InternalError
from shardwright.model.ids import ComponentName, SessionNumber, ShardId
from shardwright.model.limits import Limits
from shardwright.model.manifest import Component
from shardwright.model.scope import ScopeKind
from shardwright.model.shard import ShardDefinition
from shardwright.placement import Capacity


class Spec(Struct, frozen=True):
    """What plan and manifest say of one component, as far as composition cares."""

    component: Component
    definition: ShardDefinition

    @property
    def name(self) -> ComponentName:
        return self.definition.component

    @property
    def kind(self) -> ScopeKind:
        return self.definition.scope.kind

    @property
    def limits(self) -> Limits:
        return self.definition.limits

    @property
    def most_shards(self) -> int | None:
        """The most shards there may be; None when only capacity limits them."""
        bounds = [] if self.component.usage.max_instances is None else [self.component.usage.max_instances]
        if self.kind is ScopeKind.SHARED:
            bounds.append(self.component.scale.max)
        return min(bounds) if bounds else None


class Entry(Struct):
    """One shard. ``history`` names the sessions, keys or requests it ever served, kept where reuse is not permitted."""

    id: ShardId
    spec: Spec
    created_s: float
    status: ShardStatus = ShardStatus.STARTING  # STARTING or READY; the flags say the rest
    draining: bool = False
    stopping: bool = False
    sessions: set[SessionNumber] = field(default_factory=set)
    key: str | None = None
    request: int | None = None
    used: bool = False
    history: set[str] = field(default_factory=set)
    idle_since_s: float | None = None
    resized: Limits | None = None  # other limits than the definition's
    replaced: bool = False  # another takes its place: it no longer counts among the instances permitted by ``scale``

    @property
    def limits(self) -> Limits:
        return self.spec.limits if self.resized is None else self.resized

    @property
    def accepting(self) -> bool:
        return not (self.draining or self.stopping)

    @property
    def free(self) -> bool:
        return self.accepting and not self.sessions and self.key is None and self.spec.kind is not ScopeKind.SHARED

    def may_join(self, session: SessionNumber) -> bool:
        """Whether one more session may be multiplexed into this session-scoped shard, which already serves some.

        Without ``reuse`` the slots are counted over the shard's life: one that a session left is not given to another.
        """
        slots = self.spec.component.sessions_per_shard
        return self.accepting and len(self.sessions if self.spec.component.reuse else self.history) < slots

    def record(self) -> ShardRecord:
        return ShardRecord(
            self.id, self.spec.name, self.spec.kind,
            self.status if self.accepting else ShardStatus.DRAINING, self.limits, self.free,
            tuple(sorted(self.sessions)), self.key, self.request, self.created_s, self.idle_since_s, self.stopping,
        )  # fmt: skip


class Hold(Struct):
    """A session's lease. ``claims`` are the compositions in progress that count on it; ``settled`` once one was whole.

    ``marked`` says that this lease wrote the session into the shard's history.
    """

    shard: ShardId
    claims: set[int] = field(default_factory=set)
    settled: bool = False
    marked: bool = False


class SessionEntry(Struct):
    number: SessionNumber
    since_s: float
    touched_s: float
    lived: bool = False  # a composition of it was whole once
    holds: dict[Need, Hold] = field(default_factory=dict)  # for the session's life
    requests: dict[ShardId, Hold] = field(default_factory=dict)  # request-scoped: until release_request

    @property
    def shards(self) -> Iterator[ShardId]:
        yield from (hold.shard for hold in self.holds.values())
        yield from self.requests

    def record(self, roster: Roster) -> SessionRecord:
        return SessionRecord(
            self.number,
            tuple(Lease(need.component, hold.shard, need.key) for need, hold in self.holds.items()),
            tuple(Lease(roster.shards[shard].spec.name, shard) for shard in self.requests),
            self.since_s,
            self.touched_s,
        )


class Roster:
    """All shards and sessions, with indexes by component, by key, and of the shards that nobody holds."""

    def __init__(self, specs: Mapping[ComponentName, Spec], capacity: Capacity) -> None:
        self.specs = dict(specs)
        self.capacity = capacity
        self.shards: dict[ShardId, Entry] = {}
        self.sessions: dict[SessionNumber, SessionEntry] = {}
        self.by_component: dict[ComponentName, dict[ShardId, Entry]] = {name: {} for name in specs}
        self.unheld: dict[ComponentName, dict[ShardId, Entry]] = {name: {} for name in specs}
        self.by_key: dict[tuple[ComponentName, str], Entry] = {}
        self.stopping: set[ShardId] = set()

    def add(self, entry: Entry) -> None:
        if entry.id in self.shards:
            raise InternalError(f"shard id {entry.id} was given out twice")
        try:
            self.capacity.reserve(entry.id, entry.spec.limits)
        except ValueError as error:
            raise InternalError(str(error)) from error
        self.shards[entry.id] = entry
        self.by_component[entry.spec.name][entry.id] = entry
        self.unheld[entry.spec.name][entry.id] = entry

    def remove(self, entry: Entry) -> None:
        """Forget a shard that is gone, and give its guarantee back. Nobody may hold it any more."""
        del self.shards[entry.id], self.by_component[entry.spec.name][entry.id]
        del self.unheld[entry.spec.name][entry.id]
        self.stopping.discard(entry.id)
        self.unkey(entry)
        self.capacity.release(entry.id)

    def hold(self, entry: Entry, session: SessionNumber, need: Need, request: int | None) -> Hold:
        """Let the session hold the shard, and bind the shard to what it serves from now on."""
        entry.sessions.add(session)
        entry.idle_since_s = None
        self.unheld[entry.spec.name].pop(entry.id, None)
        if need.key is not None and entry.key is None:
            entry.key = need.key
            self.by_key[entry.spec.name, need.key] = entry
        entry.request = request
        mark = label(entry.spec.kind, session, need.key, request)
        marked = not entry.spec.component.reuse and entry.spec.kind is not ScopeKind.SHARED
        marked = marked and mark not in entry.history
        if marked:
            entry.history.add(mark)
        return Hold(entry.id, marked=marked)

    def unhold(self, entry: Entry, session: SessionNumber, now: float) -> None:
        entry.sessions.discard(session)
        entry.request = None
        if not entry.sessions:
            entry.idle_since_s = now
            self.unheld[entry.spec.name][entry.id] = entry

    def unkey(self, entry: Entry) -> None:
        if entry.key is not None:
            self.by_key.pop((entry.spec.name, entry.key), None)
            entry.key = None

    def free(self, component: ComponentName) -> list[Entry]:
        """The component's shards in the WarmPool, best first: ready before starting, most recently used first."""
        entries = [entry for entry in self.unheld[component].values() if entry.free]
        entries.sort(key=lambda e: (e.status is not ShardStatus.READY, -(e.idle_since_s or e.created_s), e.id))
        return entries

    def lease_of(self, session: SessionNumber, need: Need) -> Entry | None:
        """The shard that the session holds for that need already."""
        entry = self.sessions.get(session)
        hold = entry.holds.get(need) if entry else None
        return self.shards[hold.shard] if hold else None

    def restricted(self, sessions: Collection[SessionNumber], also: Iterable[ShardId] = ()) -> Roster:
        """A roster in which only those sessions (and the shards ``also``) are left: the best that waiting can bring."""
        other = Roster(self.specs, self.capacity.emptied())
        kept = {shard for number in sessions if number in self.sessions for shard in self.sessions[number].shards}
        for shard in sorted(kept.union(also)):
            entry = self.shards[shard]
            copy = Entry(
                entry.id, entry.spec, entry.created_s, entry.status, entry.draining, entry.stopping,
                entry.sessions & set(sessions) if shard in kept else set(entry.sessions),
                None, entry.request, entry.used, set(entry.history), entry.idle_since_s,
            )  # fmt: skip
            other.add(copy)
            if copy.sessions:
                del other.unheld[copy.spec.name][copy.id]
            if entry.key is not None:
                copy.key = entry.key
                other.by_key[copy.spec.name, entry.key] = copy
        other.sessions = {number: self.sessions[number] for number in sessions if number in self.sessions}
        return other


def label(kind: ScopeKind, session: SessionNumber, key: str | None, request: int | None) -> str:
    """The trust domain that a lease puts a shard into, by name."""
    if kind is ScopeKind.KEY:
        return f"key {key}"
    return f"request {request}" if kind is ScopeKind.REQUEST else f"session {session}"
