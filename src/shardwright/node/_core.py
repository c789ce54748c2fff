"""The composition root of one machine: decides through the pure rooms, acts through launcher, ports and channels.

Everything here runs on one event loop; decisions are synchronous and atomic between two awaits. What waits for shards to
start waits on futures keyed by request; an aborted composition fails its future, so nobody waits for what will not come.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from shardwright.composition import (
    Abort,
    Composer,
    Decision,
    Effect,
    Granted,
    Launch,
    Lease,
    Queued,
    Refused,
    ReturnToPool,
    ShardRecord,
    ShardStatus,
    Stop,
    Unbind,
    needs_of,
)
from shardwright.contracts.clock import Clock
from shardwright.contracts.transport import Transport
from shardwright.controller import ComponentPool, KeepMinimum, PooledShard, PoolPolicy, PoolState, Refill
from shardwright.errors import CallError, CompositionRefused, NodeError, NotPermitted, ShardLost, ShardwrightError
from shardwright.guest import Bind, Bound, Finished, Note
from shardwright.guest import Unbind as UnbindRequest
from shardwright.model.endpoint import Endpoint, Peer
from shardwright.model.ids import NO_SESSION, ComponentName, SessionNumber, ShardId, new_shard_id
from shardwright.model.manifest import Component, Manifest, ScopeKind
from shardwright.model.shard import ShardPlan
from shardwright.node._journal import Journal
from shardwright.node._launcher import Launcher
from shardwright.node._logs import Logs
from shardwright.node._port import ShardPort
from shardwright.placement import Capacity
from shardwright.telemetry import EventLog

CLIENT = Peer(ComponentName("node"), ShardId("node"))
"""The identity under which the node's own process calls."""

COMPOSE_TIMEOUT_S = 10.0
STOP_GRACE_S = 2.0


@dataclass(slots=True)
class LiveSession:
    """A session as the node knows it."""

    number: SessionNumber
    name: str
    begun_s: float
    told: set[ShardId] = field(default_factory=set)  # shards that know its name


class Core:
    """The running node. ``launcher`` makes shards, ``transport`` their channels."""

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
        self.manifest = manifest
        self.plan = plan
        self.events = events
        self.journal = journal
        self.transport = transport
        self.logs = Logs(self._session_name)
        self.launcher: Launcher | None = None
        self.on_line: Callable[[str], None] | None = None
        self._clock = clock
        self._policy = policy or KeepMinimum()
        source = random_source or random.Random(int.from_bytes(os.urandom(8), "little"))
        components = {component.name: component for component in manifest.components}
        self._components: dict[ComponentName, Component] = {
            d.component: components.get(d.component) or Component(name=d.component, code=d.code.primary)
            for d in plan.definitions
        }
        self._composer = Composer(plan, components, capacity, lambda name: new_shard_id(name, source))
        self._terminal = terminal
        self._ports: dict[ShardId, ShardPort] = {}
        self._sessions: dict[SessionNumber, LiveSession] = {}
        self._names: dict[str, SessionNumber] = {}
        self._own: dict[ShardId, SessionNumber] = {}  # sessions in which shards act for themselves
        self._requests = itertools.count(1)
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._grants: dict[int, Granted] = {}
        self._failures: dict[ComponentName, tuple[int, float]] = {}
        self._first_failure: dict[ComponentName, ShardwrightError] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping: set[ShardId] = set()
        self._finished: dict[ShardId, asyncio.Future[Finished]] = {}
        self._tick_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False

    # -- life --------------------------------------------------------------------------------------------------

    async def open(self, launcher: Launcher) -> None:
        """Templates made, minimum of shards ready. Raises what hindered it; then ``close`` is still to be called."""
        self.launcher = launcher
        self._loop = asyncio.get_running_loop()
        self.record("node", f"node for {self.manifest.app} starts", inputs=(("pid", os.getpid()),))
        await launcher.prepare()
        self._tick()
        while self._tasks:
            await asyncio.wait(set(self._tasks))
            for error in self._first_failure.values():
                raise error
        self._periodic()
        self.record("node", "ready")

    async def close(self, grace_s: float = STOP_GRACE_S) -> None:
        """End every session and shard; nothing remains."""
        if self._closing:
            return
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(NodeError("the node is stopping"))
                future.exception()
        for session in list(self._sessions):
            self.end_session(session)
        for port in list(self._ports.values()):
            port.stop(grace_s)
        end_s = self._clock.monotonic_s() + grace_s
        while self._ports and self._clock.monotonic_s() < end_s:
            await asyncio.sleep(0.005)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=5)
        if self.launcher is not None:
            for port in list(self._ports.values()):
                with contextlib.suppress(ShardwrightError):
                    await self.launcher.end(port)
            await self.launcher.close()
        self.logs.close()
        self.record("node", "stopped")

    def fail(self, reason: str) -> None:
        """Something that the node cannot live without is gone: fail whoever waits."""
        self.record("failure", reason)
        for future in [*self._waiting.values(), *self._finished.values()]:
            if not future.done():
                future.set_exception(NodeError(reason))
                future.exception()

    # -- sessions ----------------------------------------------------------------------------------------------

    async def begin_session(
        self, name: str, keys: Mapping[str, str], *, components: Iterable[str] | None = None, timeout_s: float | None = None
    ) -> LiveSession:
        """Compose a session: all shards that it needs, or CompositionRefused and none of them.

        ``keys`` maps keyed components to the key that the session will use; ``components`` are those it enters by (all).
        """
        if name in self._names:
            raise CompositionRefused(f"session {name!r} exists already", remedy="end it first, or choose another name")
        session = LiveSession(SessionNumber(next(self._numbers)), name, self._clock.wall_s())
        self._names[name] = session.number
        self._sessions[session.number] = session
        entries = components or [definition.component for definition in self.plan.definitions]
        try:
            needs = needs_of(self.plan, entries, {component: repr(key) for component, key in keys.items()})
            request, now = next(self._requests), self._clock.monotonic_s()
            deadline_s = now + (COMPOSE_TIMEOUT_S if timeout_s is None else timeout_s)
            await self._settled(self._composer.compose(request, session.number, needs, now, deadline_s))
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
        effects = self._composer.end_session(number, self._clock.monotonic_s())
        for shard in session.told:
            if shard in self._ports:
                self._ports[shard].session_ends(number)
        self._perform(effects)
        self._freed()

    def sessions(self) -> list[LiveSession]:
        return [s for s in self._sessions.values() if s.number not in self._own.values()]

    def touch(self, number: SessionNumber) -> None:
        self._composer.touch(number, self._clock.monotonic_s())

    # -- bindings ----------------------------------------------------------------------------------------------

    async def bind(self, caller: Peer, bind: Bind) -> list[tuple[Peer, Endpoint]]:
        """Links to the shards of a route: the callee's identity and the caller's end of each channel.

        The callee has its end already. Raises NotPermitted, CompositionRefused, ShardLost.
        """
        component = ComponentName(bind.component)
        number = self._permitted(caller, bind)
        definition = self.plan.definition(component)
        if bind.shard is not None:
            shards = [ShardId(bind.shard)]
            record = self._composer.shard(shards[0])
            if record is None or record.component != component or shards[0] not in self._ports:
                raise ShardLost(f"{bind.shard} is gone, and with it the objects that lived there", outcome="not started")
            if record.scope is ScopeKind.SESSION and number not in record.sessions:
                raise NotPermitted(f"{caller.shard} may not reach {bind.shard}", outcome="not started")
        else:
            shards = [(await self._acquire(number, component, bind.key)).shard]
            if definition.scope.kind is ScopeKind.SHARED:
                shards += [
                    record.id
                    for record in self._composer.shards()
                    if record.component == component and record.status is ShardStatus.READY and record.id not in shards
                ]
        narrow = definition.scope.kind is ScopeKind.SESSION
        sessions = frozenset({SessionNumber(bind.session)}) if narrow else caller.sessions
        links = []
        for shard in shards:
            port = self._ports.get(shard)
            if port is None:
                continue
            if bind.session:
                self._introduce(self._sessions.get(SessionNumber(bind.session)), shard)
            ours, theirs = self.transport.pair()
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
        if caller is CLIENT or caller.component == CLIENT.component:
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
        record = self._composer.shard(caller.shard)
        mine = record is not None and (record.scope is not ScopeKind.SESSION or number in record.sessions)
        if number not in self._sessions or not mine:
            raise NotPermitted(f"{caller.shard} does not serve that session", outcome="not started")
        return number

    def _own_session(self, shard: ShardId) -> SessionNumber:
        """What a shard needs for itself, outside any session, it holds until it ends."""
        if shard not in self._own:
            number = SessionNumber(next(self._numbers))
            self._own[shard] = number
            self._sessions[number] = LiveSession(number, f"({shard})", self._clock.wall_s())
        return self._own[shard]

    async def _acquire(self, session: SessionNumber, component: ComponentName, key: str | None) -> Lease:
        need = next((d for d in self.plan.definitions if d.component == component), None)
        assert need is not None
        if need.scope.kind is not ScopeKind.REQUEST:
            held = self._composer.lease(session, component, key)
            if held is not None and held in self._ports:
                return Lease(component, held, key)
        request, now = next(self._requests), self._clock.monotonic_s()
        decision = self._composer.acquire(request, session, component, key, now, now + COMPOSE_TIMEOUT_S)
        granted = await self._settled(decision)
        return next(lease for lease in granted.leases if lease.component == component and lease.key == key)

    # -- decisions and effects ---------------------------------------------------------------------------------

    async def _settled(self, decision: Decision) -> Granted:
        """The composition, whole. Raises CompositionRefused, or what hindered a start."""
        request = decision.request
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting[request] = future
        self._decided(decision)
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError:
            self._perform(self._composer.cancel(request, self._clock.monotonic_s()))
            self._freed()
            raise
        finally:
            self._waiting.pop(request, None)
        return self._grants.pop(request)

    def _decided(self, decision: Decision) -> None:
        session = self._session_name(decision.session)
        match decision:
            case Granted():
                self._grants[decision.request] = decision
                leases = ", ".join(f"{lease.component}={lease.shard}" for lease in decision.leases)
                self.record("lease", decision.reason, session=session, inputs=(("leases", leases), *decision.inputs))
                for launch in decision.launches:
                    self._begin(launch)
                if decision.ready:
                    self._resolve(decision.request)
            case Queued():
                self.record("queue", decision.reason, session=session, inputs=decision.inputs)
                self._perform(decision.effects)
                self._arm()
            case Refused():
                self.record("refuse", decision.reason, session=session, inputs=decision.inputs)
                self._reject(decision.request, CompositionRefused(decision.reason, remedy=decision.remedy))

    def _resolve(self, request: int) -> None:
        future = self._waiting.get(request)
        if future is not None and not future.done():
            future.set_result(None)

    def _reject(self, request: int, error: BaseException) -> None:
        self._grants.pop(request, None)
        future = self._waiting.get(request)
        if future is not None and not future.done():
            future.set_exception(error)
            future.exception()

    def _perform(self, effects: Iterable[Effect], error: ShardwrightError | None = None) -> None:
        for effect in effects:
            match effect:
                case Abort():
                    self.record("abort", effect.reason, session=self._session_name(effect.session), inputs=effect.inputs)
                    self._reject(effect.request, error or CompositionRefused(effect.reason, remedy=effect.remedy))
                case ReturnToPool():
                    self.record("return", effect.reason, component=effect.component, shard=effect.shard, inputs=effect.inputs)
                case Stop():
                    self.record("stop", effect.reason, component=effect.component, shard=effect.shard, inputs=effect.inputs)
                    self._spawn(self._stop(effect.shard))
                case Unbind():
                    self.record("unbind", effect.reason, component=effect.component, shard=effect.shard, inputs=effect.inputs)
                    for port in self._ports.values():
                        port.forget(effect.component, effect.session)

    def _begin(self, launch: Launch) -> None:
        self.record("launch", launch.reason, component=launch.component, shard=launch.shard, inputs=launch.inputs)
        self._spawn(self._launch(launch))

    async def _launch(self, launch: Launch) -> None:
        assert self.launcher is not None
        begun_s = self._clock.monotonic_s()
        terminal = launch.component == self._terminal
        try:
            port = await self.launcher.launch(launch.component, launch.shard, launch.limits, terminal)
        except ShardwrightError as error:
            count, _ = self._failures.get(launch.component, (0, 0.0))
            now = self._clock.monotonic_s()
            self._failures[launch.component] = (count + 1, now)
            self._first_failure.setdefault(launch.component, error)
            self.record("failure", f"it did not start: {error}", component=launch.component, shard=launch.shard)
            self._perform(self._composer.start_failed(launch.shard, str(error), now), error)
            self._freed()
            return
        now = self._clock.monotonic_s()
        self._failures.pop(launch.component, None)
        self._ports[launch.shard] = port
        self.record(
            "ready", self.launcher.how(launch.component), component=launch.component, shard=launch.shard,
            inputs=(("start_s", round(now - begun_s, 6)), ("pid", port.pid)),
        )  # fmt: skip
        record = self._composer.shard(launch.shard)
        for number in record.sessions if record is not None else ():
            self._introduce(self._sessions.get(number), launch.shard)
        for request in self._composer.started(launch.shard, now):
            self._resolve(request)
        self._attach(port)
        self._later_tick()

    def _attach(self, port: ShardPort) -> None:
        attach = getattr(port, "attach", None)
        if attach is not None:
            attach(self)

    async def _stop(self, shard: ShardId) -> None:
        port = self._ports.get(shard)
        if port is None:
            return
        self._stopping.add(shard)
        port.stop(STOP_GRACE_S)
        end_s = self._clock.monotonic_s() + STOP_GRACE_S + 1.0
        while shard in self._ports and self._clock.monotonic_s() < end_s:
            await asyncio.sleep(0.01)
        if shard in self._ports:
            self.on_gone(port, "it did not stop in time")

    def _freed(self) -> None:
        """Something was given back: queued requests may be served now, and the pool may want more."""
        for decision in self._composer.poll(self._clock.monotonic_s()):
            self._decided(decision)
        self._later_tick()

    # -- the pool ----------------------------------------------------------------------------------------------

    def _later_tick(self) -> None:
        if not self._tick_due and not self._closing:
            self._tick_due = True
            self._loop.call_soon(self._tick)

    def _tick(self) -> None:
        self._tick_due = False
        if self._closing:
            return
        now = self._clock.monotonic_s()
        for action in self._policy.decide(self._pool_state(), now):
            if isinstance(action, Refill):
                for _ in range(action.count):
                    decision = self._composer.launch(action.component, now, action.reason)
                    if isinstance(decision, Refused):
                        self.record("refuse", decision.reason, component=action.component, inputs=decision.inputs)
                        break
                    self._begin(decision)
            else:
                self._perform(self._composer.evict(action.shard, now, action.reason))

    def _pool_state(self) -> PoolState:
        by_component: dict[ComponentName, list[ShardRecord]] = {name: [] for name in self._components}
        for record in self._composer.shards():
            by_component[record.component].append(record)
        pools = []
        for definition in self.plan.definitions:
            records = by_component[definition.component]
            free = tuple(
                PooledShard(r.id, r.status is ShardStatus.READY, r.idle_since_s or r.created_s)
                for r in records
                if r.status in (ShardStatus.READY, ShardStatus.STARTING)
                and (r.free or (r.scope is ScopeKind.SHARED and not r.held))
            )
            count, failed_s = self._failures.get(definition.component, (0, 0.0))
            component = self._components[definition.component]
            kind = definition.scope.kind
            pools.append(ComponentPool(component, kind, definition.limits, len(records), free, count, failed_s))
        return PoolState(tuple(pools), self._composer.left(), len(self._composer.queued()))

    def _periodic(self) -> None:
        """Expiry, deadlines and retries; four times a second."""
        if self._closing:
            return
        now = self._clock.monotonic_s()
        effects = self._composer.expire(now)
        if effects:
            self._perform(effects)
        if effects or self._composer.queued():
            self._freed()
        else:
            self._later_tick()
        self._timer = self._loop.call_later(0.25, self._periodic)

    def _arm(self) -> None:
        deadline_s = self._composer.next_deadline_s()
        if deadline_s is not None:
            self._loop.call_later(max(0.0, deadline_s - self._clock.monotonic_s()) + 0.001, self._freed)

    # -- what shards say (PortEvents) --------------------------------------------------------------------------

    def on_bind(self, port: ShardPort, bind: Bind) -> None:
        self._spawn(self._answer(port, bind))

    async def _answer(self, port: ShardPort, bind: Bind) -> None:
        record = self._composer.shard(port.shard)
        narrow = record is not None and record.scope is ScopeKind.SESSION
        sessions = frozenset(record.sessions) if record is not None and narrow else None
        try:
            links = await self.bind(Peer(port.component, port.shard, sessions), bind)
        except ShardwrightError as error:
            outcome = error.outcome if isinstance(error, CallError) else "not started"
            port.bound(Bound(bind.request, error.message, error.code, error.remedy, outcome))
            self.record("refuse", str(error), component=bind.component, shard=port.shard)
            return
        for peer, endpoint in links:
            port.offer(bind.request, peer, endpoint)
        port.bound(Bound(bind.request))

    def on_unbind(self, port: ShardPort, unbind: UnbindRequest) -> None:
        self.release_request(ShardId(unbind.shard))

    def release_request(self, shard: ShardId) -> None:
        """A shard of request scope has served its request."""
        self._perform(self._composer.release_request(shard, self._clock.monotonic_s()))
        self._freed()

    def on_finished(self, port: ShardPort, finished: Finished) -> None:
        future = self._finished.pop(port.shard, None)
        if future is not None and not future.done():
            future.set_result(finished)

    def on_note(self, port: ShardPort, note: Note) -> None:
        self.record(note.kind[:32], note.message[:2000], component=port.component, shard=port.shard)

    def on_gone(self, port: ShardPort, reason: str) -> None:
        """A shard ended, by itself or by our will."""
        if self._ports.pop(port.shard, None) is None:
            return
        self._spawn(self._bury(port, reason))

    async def _bury(self, port: ShardPort, reason: str) -> None:
        assert self.launcher is not None
        try:
            ended = await self.launcher.end(port)
            reason = str(ended) if ended is not None and ended.status is not None else reason
        except ShardwrightError as error:
            reason = f"{reason}; cleaning up: {error}"
        now = self._clock.monotonic_s()
        shard = port.shard
        own = self._own.pop(shard, None)
        wanted = shard in self._stopping
        self._stopping.discard(shard)
        if self._composer.shard(shard) is not None:
            loss = self._composer.exited(shard, now, reason)
            sessions = ",".join(self._session_name(s) for s in loss.sessions)
            kind = "ended" if wanted or loss.expected or self._closing else "loss"
            self.record(kind, reason, component=port.component, shard=shard, inputs=(("sessions", sessions), *loss.inputs))
            self._perform(loss.effects)
        if own is not None:
            self.end_session(own)
        future = self._finished.pop(shard, None)
        if future is not None and not future.done():
            future.set_exception(ShardLost(f"{shard} ended while it ran the program: {reason}"))
        self.logs.forget(shard)
        if not self._closing:
            self._freed()

    # -- the entry program -------------------------------------------------------------------------------------

    async def run_main(self, component: ComponentName, target: str) -> Finished:
        """Run ``app.main`` in its shard, in a session of its own."""
        session = await self.begin_session("main", {}, components=[component])
        lease = await self._acquire(session.number, component, None)
        future: asyncio.Future[Finished] = self._loop.create_future()
        self._finished[lease.shard] = future
        port = self._ports.get(lease.shard)
        if port is None:
            raise ShardLost(f"{lease.shard} ended before it could run the program")
        port.run_main(target, session.number)
        try:
            return await future
        finally:
            self.end_session(session.number)

    def main_pid(self, component: ComponentName) -> int | None:
        return next((port.pid for port in self._ports.values() if port.component == component), None)

    # -- small -------------------------------------------------------------------------------------------------

    def ports(self) -> Mapping[ShardId, ShardPort]:
        return self._ports

    def records(self) -> tuple[ShardRecord, ...]:
        return self._composer.shards()

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
        """Into the journal, and to whoever listens to events."""
        values = tuple(inputs)
        self.journal.append(
            self._clock.wall_s(), kind, reason, component=component, shard=shard, session=session, inputs=values
        )
        self.events.emit(
            kind, reason, shard=ShardId(shard) if shard else None,
            component=ComponentName(component) if component else None, session=None,
        )  # fmt: skip

    def _session_name(self, number: int) -> str:
        session = self._sessions.get(SessionNumber(number))
        return session.name if session is not None else ""

    def _introduce(self, session: LiveSession | None, shard: ShardId) -> None:
        if session is not None and shard not in session.told and shard in self._ports:
            session.told.add(shard)
            self._ports[shard].session_begins(session.number, session.name)

    def _tell(self, session: LiveSession) -> None:
        for record in self._composer.shards():
            if session.number in record.sessions:
                self._introduce(session, record.id)

    def _spawn(self, coroutine: object) -> None:
        task: asyncio.Task[None] = self._loop.create_task(coroutine)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._loop.call_exception_handler({"message": "a task of the node failed", "exception": task.exception()})

