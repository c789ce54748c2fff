"""The composition root of one machine: sessions, bindings, and what shards say. Everything runs on one event loop."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from shardwright.composition import Composer, ShardRecord, ShardStatus, needs_of
from shardwright.contracts.clock import Clock
from shardwright.contracts.transport import Transport
from shardwright.controller import KeepMinimum, PoolPolicy
from shardwright.errors import CallError, CompositionRefused, NodeError, NotPermitted, ShardLost, ShardwrightError
from shardwright.guest import Bind, Bound, Finished, Load, Note
from shardwright.guest import Unbind as UnbindRequest
from shardwright.model.endpoint import Endpoint, Peer
from shardwright.model.ids import NO_SESSION, ComponentName, SessionId, SessionNumber, ShardId, new_shard_id
from shardwright.model.manifest import Component, Manifest, ScopeKind, implicit
from shardwright.model.shard import MAIN_COMPONENT, ShardPlan
from shardwright.node._journal import Journal
from shardwright.node._launcher import Launcher
from shardwright.node._logs import Logs
from shardwright.node._port import ShardPort
from shardwright.node._shards import STOP_GRACE_S, Shards
from shardwright.placement import Capacity
from shardwright.telemetry import EventLog

CLIENT = Peer(ComponentName("node"), ShardId("node"))
"""The identity under which the node's own process calls."""
MAX_PENDING_BINDS = 512  # of one shard at a time: its threads and coroutines ask one each
MAX_RECORDS = 1000  # of notes and refusals that one shard causes; a chatterbox must not fill the journal
MOST_PAST_NAMES = 4096
JOURNAL_RETRY_S = (0.05, 0.25)  # the first time, and from then on


@dataclass(slots=True)
class LiveSession:
    """A session as the node knows it."""

    number: SessionNumber
    name: str
    begun_s: float
    told: set[ShardId] = field(default_factory=set)  # shards that know its name


class Core:
    """The running node. ``launcher`` makes shards, ``transport`` their channels. To be made on the node's loop."""

    def __init__(
        self,
        manifest: Manifest,
        plan: ShardPlan,
        *,
        capacity: Capacity,
        transport: Transport,
        journal: Journal,
        events: EventLog,
        clock: Clock,
        policy: PoolPolicy | None = None,
        random_source: random.Random | None = None,
        terminal: ComponentName | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.manifest = manifest
        self.plan = plan
        self.events = events
        self.journal = journal
        self.transport = transport
        self.logs = Logs(self._session_of)
        self._clock = clock
        source = random_source or random.Random(int.from_bytes(os.urandom(8), "little"))
        named: dict[str, Component] = {component.name: component for component in manifest.components}
        components = {
            d.component: named.get(d.component) or implicit(d.component, d.code.primary) for d in plan.definitions
        }
        composer = Composer(plan, named, capacity, lambda name: new_shard_id(name, source))
        self.shards = Shards(plan, components, composer, policy or KeepMinimum(), clock, self, terminal)
        self._sessions: dict[SessionNumber, LiveSession] = {}
        self._names: dict[str, SessionNumber] = {}
        self._past_names: dict[int, str] = {}  # of ended sessions: their last lines may come after them
        self._callers: dict[ComponentName, dict[ShardId, Peer]] = {}  # of shared components: who is bound to them
        self.offer_client: Callable[[Peer, Endpoint], None] | None = None
        self._own: dict[ShardId, SessionNumber] = {}  # sessions in which shards act for themselves
        self._requests: dict[ShardId, ShardId] = {}  # shards of request scope, and by whom they are used
        self._pending: Counter[ShardId] = Counter()  # bindings that shards wait for
        self._caused: Counter[ShardId] = Counter()  # records in the journal by the word of a shard
        self._numbers = itertools.count(1)
        self._finished: dict[ShardId, asyncio.Future[Finished]] = {}
        self._closing = False
        self._failure = ""  # why the node cannot go on
        self._retry: asyncio.TimerHandle | None = None  # of records that wait to be written
        self._stopped = False
        self.resizing = asyncio.Lock()  # one at a time: each goes by what the last one left

    # -- life --------------------------------------------------------------------------------------------------

    async def open(self, launcher: Launcher) -> None:
        """Templates made, minimum of shards ready. Raises what hindered it; then ``close`` is still to be called."""
        self.record("node", f"node for {self.manifest.app} starts", inputs=(("pid", os.getpid()),))
        await self.shards.open(launcher)
        self.record("node", "ready")

    async def close(self, grace_s: float = STOP_GRACE_S) -> None:
        """End every session and shard; nothing remains."""
        if self._closing:
            return
        self._closing = True
        for session in list(self._sessions):
            self.end_session(session)
        await self.shards.close(grace_s)
        self.logs.close()
        self._stopped = True
        self.record("node", "stopped")
        if self._retry is not None:
            self._retry.cancel()

    def fail(self, reason: str) -> None:
        """Something that the node cannot live without is gone: fail whoever waits."""
        self._failure = reason
        self.record("failure", reason)
        self.shards.fail(NodeError(reason))
        for future in self._finished.values():
            if not future.done():
                future.set_exception(NodeError(reason))
                future.exception()

    @property
    def launcher(self) -> Launcher | None:
        return self.shards.launcher

    # -- sessions ----------------------------------------------------------------------------------------------

    async def begin_session(
        self,
        name: str,
        keys: Mapping[str, str],
        *,
        components: Iterable[str] | None = None,
        timeout_s: float | None = None,
    ) -> LiveSession:
        """Compose a session: all shards that it needs, or CompositionRefused and none of them.

        ``keys`` maps keyed components to the key that the session will use; ``components`` are those it enters by (all).
        """
        if name in self._names:
            raise CompositionRefused(f"session {name!r} exists already", remedy="end it first, or choose another name")
        session = LiveSession(SessionNumber(next(self._numbers)), name, self._clock.wall_s())
        self._names[name] = session.number
        self._sessions[session.number] = session
        entries = components or [d.component for d in self.plan.definitions if d.component != MAIN_COMPONENT]
        try:
            needs = needs_of(self.plan, entries, {component: repr(key) for component, key in keys.items()})
            await self.shards.compose(session.number, needs, timeout_s)
        except BaseException:
            self.end_session(session.number)
            raise
        self._tell(session)
        return session

    def end_session(self, number: SessionNumber) -> None:
        """Give back everything that it holds. Idempotent."""
        session = self._sessions.pop(number, None)
        if session is None:
            return
        self._names.pop(session.name, None)
        self._past_names[number] = session.name
        while len(self._past_names) > MOST_PAST_NAMES:
            del self._past_names[next(iter(self._past_names))]
        effects = self.shards.composer.end_session(number, self._clock.monotonic_s())
        for shard in session.told:
            if shard in self.shards.ports:
                self.shards.ports[shard].session_ends(number)
        self.shards.perform(effects)
        self.shards.freed()

    def sessions(self) -> list[LiveSession]:
        return [s for s in self._sessions.values() if s.number not in self._own.values()]

    def touch(self, number: SessionNumber) -> None:
        self.shards.composer.touch(number, self._clock.monotonic_s())

    # -- bindings ----------------------------------------------------------------------------------------------

    async def bind(self, caller: Peer, bind: Bind) -> list[tuple[Peer, Endpoint]]:
        """Links to the shards of a route: the callee's identity and the caller's end of each channel.

        The callee has its end already. None when ``bind`` names a key and the shard that has it, which the session now
        holds as well. Raises NotPermitted, CompositionRefused, ShardLost.
        """
        if self._failure:
            raise NodeError(self._failure, remedy="start the node again")
        component = ComponentName(bind.component)
        number = self._permitted(caller, bind)
        definition = self.plan.definition(component)
        if bind.shard is not None and bind.key is None:
            shards = [ShardId(bind.shard)]
            record = self.shards.composer.shard(shards[0])
            if record is None or record.component != component or shards[0] not in self.shards.ports:
                raise ShardLost(
                    f"{bind.shard} is gone, and with it the objects that lived there", outcome="not started"
                )
            if record.scope is ScopeKind.SESSION and number not in record.sessions:
                raise NotPermitted(f"{caller.shard} may not reach {bind.shard}", outcome="not started")
        else:
            shards = [(await self.shards.acquire(number, component, bind.key, bind.lost)).shard]
            if shards[0] == bind.shard:  # the caller has a link to it, for other sessions
                self._introduce(self._sessions.get(number), shards[0])
                return []
            if definition.scope.kind is ScopeKind.REQUEST:
                self._requests[shards[0]] = caller.shard
                if caller.shard != CLIENT.shard and self.shards.composer.shard(caller.shard) is None:
                    self.release_request(shards[0])  # who asked for it ended meanwhile, and gives nothing back
                    raise NotPermitted(f"{caller.shard} has ended", outcome="not started")
            if definition.scope.kind is ScopeKind.SHARED:
                shards += [
                    record.id
                    for record in self.shards.composer.shards()
                    if record.component == component
                    and record.status is ShardStatus.READY
                    and record.id not in (*shards, *bind.lost)
                ]
        if definition.scope.kind is ScopeKind.SHARED and bind.shard is None and caller.sessions is None:
            self._callers.setdefault(component, {})[caller.shard] = caller
        narrow = definition.scope.kind is ScopeKind.SESSION
        sessions = frozenset({SessionNumber(bind.session)}) if narrow else caller.sessions
        links: list[tuple[Peer, Endpoint]] = []
        for shard in shards:
            port = self.shards.ports.get(shard)
            if port is None or not port.alive():
                continue
            if bind.session:
                self._introduce(self._sessions.get(SessionNumber(bind.session)), shard)
            try:
                ours, theirs = self.transport.pair()
            except BaseException:
                for _, endpoint in links:
                    self.transport.dispose(endpoint)
                raise
            port.accept(Peer(caller.component, caller.shard, sessions), theirs)
            links.append((Peer(component, shard), ours))
        if not links:
            raise ShardLost(f"{component} ended just now", outcome="not started")
        return links

    def _permitted(self, caller: Peer, bind: Bind) -> SessionNumber:
        """The session to act for. Raises NotPermitted."""
        if not any(d.component == bind.component for d in self.plan.definitions):
            raise NotPermitted(f"there is no component {bind.component!r}", outcome="not started")
        number = SessionNumber(bind.session)
        if caller.shard == CLIENT.shard:
            if number not in self._sessions:
                raise NotPermitted("the session has ended", outcome="not started", remedy="begin a new one")
            return number
        if self.plan.edge(caller.component, bind.component) is None:
            raise NotPermitted(
                f"{caller.component} may not call {bind.component}: no such edge in the plan",
                outcome="not started",
                remedy=f'add "{bind.component}" to depends_on of [components.{caller.component}]',
            )
        if number == NO_SESSION:
            return self._own_session(caller.shard)
        record = self.shards.composer.shard(caller.shard)
        own = record is not None and record.scope in (ScopeKind.SESSION, ScopeKind.REQUEST)
        mine = record is not None and (not own or number in record.sessions)
        if number not in self._sessions or not mine:
            raise NotPermitted(f"{caller.shard} does not serve that session", outcome="not started")
        return number

    def _own_session(self, shard: ShardId) -> SessionNumber:
        """What a shard needs for itself, outside any session, it holds until it ends. Raises NotPermitted after that."""
        if shard not in self._own:
            if self.shards.composer.shard(shard) is None:
                raise NotPermitted(f"{shard} has ended", outcome="not started")
            number = SessionNumber(next(self._numbers))
            self._own[shard] = number
            self._sessions[number] = LiveSession(number, f"({shard})", self._clock.wall_s())
        return self._own[shard]

    # -- what shards say (PortEvents) --------------------------------------------------------------------------

    def on_bind(self, port: ShardPort, bind: Bind) -> None:
        if self._pending[port.shard] >= MAX_PENDING_BINDS:
            port.close(f"it asked for more than {MAX_PENDING_BINDS} bindings at once")
            return
        self._pending[port.shard] += 1
        self.shards.spawn(self._answer(port, bind))

    async def _answer(self, port: ShardPort, bind: Bind) -> None:
        try:
            await self._bind_for(port, bind)
        except Exception as defect:  # whoever asked must get an answer
            port.bound(Bound(bind.request, f"the node could not bind {bind.component}: {defect!r}", CallError.code))
            raise
        finally:
            self._pending[port.shard] -= 1
            if not self._pending[port.shard]:
                del self._pending[port.shard]

    async def _bind_for(self, port: ShardPort, bind: Bind) -> None:
        record = self.shards.composer.shard(port.shard)
        narrow = record is not None and record.scope is ScopeKind.SESSION
        # a link of a shard that serves sessions speaks for one of them (``bind`` checks which), or for the shard itself
        sessions = frozenset({SessionNumber(bind.session)}) if narrow else None
        try:
            links = await self.bind(Peer(port.component, port.shard, sessions), bind)
        except ShardwrightError as error:
            outcome = error.outcome if isinstance(error, CallError) else "not started"
            port.bound(Bound(bind.request, error.message, error.code, error.remedy, outcome))
            self._record_of(port, "refuse", f"{port.component} was refused {bind.component[:64]}: {error}")
            return
        for peer, endpoint in links:
            port.offer(bind.request, peer, endpoint)
        port.bound(Bound(bind.request))

    def on_unbind(self, port: ShardPort, unbind: UnbindRequest) -> None:
        shard = ShardId(unbind.shard)
        if self._requests.get(shard) == port.shard:  # nobody gives back what others use
            self.release_request(shard)

    def release_request(self, shard: ShardId) -> None:
        """A shard of request scope has served its request."""
        self._requests.pop(shard, None)
        self.shards.perform(self.shards.composer.release_request(shard, self._clock.monotonic_s()))
        self.shards.freed()

    def on_load(self, port: ShardPort, load: Load) -> None:
        self.shards.loaded(port, load)

    def on_finished(self, port: ShardPort, finished: Finished) -> None:
        future = self._finished.pop(port.shard, None)
        if future is not None and not future.done():
            future.set_result(finished)

    def on_note(self, port: ShardPort, note: Note) -> None:
        self._record_of(port, "note", f"{note.kind[:32]}: {note.message[:2000]}")

    def _record_of(self, port: ShardPort, kind: str, reason: str) -> None:
        """Something that a shard caused, as often as it may."""
        self._caused[port.shard] += 1
        if self._caused[port.shard] < MAX_RECORDS:
            self.record(kind, reason, component=port.component, shard=port.shard)
        elif self._caused[port.shard] == MAX_RECORDS:
            self.record(kind, "and more, which is not recorded", component=port.component, shard=port.shard)

    def on_gone(self, port: ShardPort, reason: str) -> None:
        self.shards.gone(port, reason)

    # -- what becomes of shards (ShardEvents) ------------------------------------------------------------------

    def shard_ready(self, port: ShardPort, sessions: tuple[SessionNumber, ...]) -> None:
        for number in sessions:
            self._introduce(self._sessions.get(number), port.shard)
        port.attach(self)
        for caller in list(self._callers.get(port.component, {}).values()):
            self._offer(caller, port)

    def _offer(self, caller: Peer, callee: ShardPort) -> None:
        """A further instance for a caller that is bound to the component already."""
        offer = self.offer_client if caller is CLIENT else None
        port = self.shards.ports.get(caller.shard)
        if port is None and offer is None:
            self._callers[callee.component].pop(caller.shard, None)
            return
        try:
            ours, theirs = self.transport.pair()
        except OSError as error:  # it has another instance
            self.record("failure", f"{caller.shard} cannot be linked to it: {error}", shard=callee.shard)
            return
        callee.accept(caller, theirs)
        peer = Peer(callee.component, callee.shard)
        if port is not None:
            port.offer(0, peer, ours)
        elif offer is not None:
            offer(peer, ours)

    def session_left(self, number: SessionNumber, shard: ShardId) -> None:
        session = self._sessions.get(number)
        if session is not None and shard in session.told:
            session.told.discard(shard)
            if shard in self.shards.ports:
                self.shards.ports[shard].session_ends(number)

    def shard_ended(self, shard: ShardId, reason: str) -> None:
        self._requests.pop(shard, None)
        for used in [used for used, caller in self._requests.items() if caller == shard]:
            self.release_request(used)
        for callers in self._callers.values():
            callers.pop(shard, None)
        for session in self._sessions.values():
            session.told.discard(shard)
        self._caused.pop(shard, None)
        own = self._own.pop(shard, None)
        if own is not None:
            self.end_session(own)
        future = self._finished.pop(shard, None)
        if future is not None and not future.done():
            future.set_exception(ShardLost(f"{shard} ended while it ran the program: {reason}"))
        self.logs.forget(shard)

    # -- the entry program -------------------------------------------------------------------------------------

    async def run_main(self, component: ComponentName, target: str) -> Finished:
        """Run ``app.main`` in its shard, in a session of its own."""
        session = await self.begin_session("main", {}, components=[component])
        lease = await self.shards.acquire(session.number, component, None)
        future: asyncio.Future[Finished] = self._loop.create_future()
        self._finished[lease.shard] = future
        port = self.shards.ports.get(lease.shard)
        if port is None:
            raise ShardLost(f"{lease.shard} ended before it could run the program")
        port.run_main(target, session.number)
        try:
            return await future
        finally:
            self.end_session(session.number)

    def main_pid(self, component: ComponentName) -> int | None:
        return next((port.pid for port in self.shards.ports.values() if port.component == component), None)

    # -- small -------------------------------------------------------------------------------------------------

    def ports(self) -> Mapping[ShardId, ShardPort]:
        return self.shards.ports

    def records(self) -> tuple[ShardRecord, ...]:
        return self.shards.composer.shards()

    def record(
        self,
        kind: str,
        reason: str,
        *,
        component: str = "",
        shard: str = "",
        session: str = "",
        inputs: Iterable[tuple[str, object]] = (),
    ) -> None:
        """Into the journal, and to whoever listens to events. Never fails: decisions must not suffer from their record."""
        kept = self.journal.append(
            self._clock.wall_s(), kind, reason, component=component, shard=shard, session=session, inputs=inputs
        )
        self.events.emit(
            kind, reason, shard=ShardId(shard) if shard else None,
            component=ComponentName(component) if component else None,
            session=SessionId(session) if session else None,
        )  # fmt: skip
        if not kept and self._retry is None and not self._stopped:
            self.events.emit("journal", f"it cannot be written now: {self.journal.trouble}; records wait")
            self._retry = self._loop.call_later(JOURNAL_RETRY_S[0], self._write_again)

    def _write_again(self) -> None:
        """Records that could not be written, once more."""
        self._retry = None
        dropped = self.journal.dropped
        if not self.journal.flush():
            self._retry = self._loop.call_later(JOURNAL_RETRY_S[1], self._write_again)
        elif dropped:
            self.journal.dropped = 0
            self.record("journal", f"it is written again; {dropped} records are missing before this one")

    def session_name(self, number: int) -> str:
        session = self._sessions.get(SessionNumber(number))
        return session.name if session is not None else self._past_names.get(number, "")

    def session_lives(self, number: SessionNumber) -> bool:
        return number in self._sessions

    def _session_of(self, shard: str, number: int) -> str:
        session = self._sessions.get(SessionNumber(number))
        return session.name if session is not None and shard in session.told else ""

    def _introduce(self, session: LiveSession | None, shard: ShardId) -> None:
        if session is not None and shard not in session.told and shard in self.shards.ports:
            session.told.add(shard)
            self.shards.ports[shard].session_begins(session.number, session.name)

    def _tell(self, session: LiveSession) -> None:
        for record in self.shards.composer.shards():
            if session.number in record.sessions:
                self._introduce(session, record.id)
