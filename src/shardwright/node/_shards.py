"""The shards of a node: decisions of the composer and the pool's policy, performed.

Decisions are synchronous and atomic between two awaits. What waits for shards to start waits on futures keyed by request;
an aborted composition fails its future, so nobody waits for what will not come.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from typing import Any, Protocol

from shardwright.composition import (
    Abort,
    Composer,
    Decision,
    Effect,
    Granted,
    Launch,
    Lease,
    Need,
    Queued,
    Refused,
    ReturnToPool,
    ShardRecord,
    ShardStatus,
    Stop,
    Unbind,
)
from shardwright.contracts.clock import Clock
from shardwright.controller import ComponentPool, PooledShard, PoolPolicy, PoolState, Refill
from shardwright.errors import CompositionRefused, NodeError, NotPermitted, ShardLost, ShardwrightError, StartFailed
from shardwright.guest import Load
from shardwright.model.ids import ComponentName, SessionNumber, ShardId
from shardwright.model.manifest import Component, ScopeKind
from shardwright.model.shard import ShardPlan
from shardwright.node._launcher import Launcher, end_in_words
from shardwright.node._loads import Loads
from shardwright.node._port import ShardPort

COMPOSE_TIMEOUT_S = 10.0
ATTEMPTS = 5  # to compose, when shards die meanwhile
STOP_GRACE_S = 2.0
SHORT_LIFE_S = 1.0  # who is lost sooner than that, again and again, is made again ever more slowly
SHORT_LIVES = 3  # so many in a row are bad luck
END_TIMEOUT_S = 1.0
PERIOD_S = 0.25


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

    def session_lives(self, number: SessionNumber) -> bool: ...

    def shard_ready(self, port: ShardPort, sessions: tuple[SessionNumber, ...]) -> None:
        """It may be called from now on."""

    def shard_ended(self, shard: ShardId, reason: str) -> None: ...

    def session_left(self, number: SessionNumber, shard: ShardId) -> None:
        """The session goes on, but not there."""


class _Unlucky(CompositionRefused):
    """A shard of the composition died before the composition was whole."""


def _not_started(component: ComponentName, defect: Exception) -> StartFailed:
    full = isinstance(defect, OSError) and defect.errno in (errno.EMFILE, errno.ENFILE)
    error = StartFailed(
        f"{component} could not be started: {defect if isinstance(defect, OSError) else repr(defect)}",
        remedy="raise the limit of open files (ulimit -n)" if full else "",
    )
    error.__cause__ = defect
    return error


class Shards:
    """All shards of one node. Use from its event loop alone."""

    def __init__(
        self,
        plan: ShardPlan,
        components: Mapping[ComponentName, Component],
        composer: Composer,
        policy: PoolPolicy,
        clock: Clock,
        events: ShardEvents,
        terminal: ComponentName | None,
    ) -> None:
        self.composer = composer
        self.ports: dict[ShardId, ShardPort] = {}
        self.launcher: Launcher | None = None
        self._loads = Loads(self.ports, clock)
        self._plan = plan
        self._components = components
        self._policy = policy
        self._clock = clock
        self._events = events
        self._terminal = terminal
        self._requests = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._grants: dict[int, Granted] = {}
        self._failures: dict[ComponentName, tuple[int, float]] = {}
        self._first_failure: dict[ComponentName, ShardwrightError] = {}
        self._short_lives: Counter[ComponentName] = Counter()  # losses since one lived for a while
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopping: set[ShardId] = set()
        self._burials: dict[ShardId, asyncio.Task[None]] = {}
        self._ends: dict[ShardId, list[asyncio.Future[None]]] = {}  # who waits for which end
        self._tick_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._defect = ""  # of the regular work, the latest
        self._closing = False

    def __repr__(self) -> str:
        return f"<Shards {len(self.ports)} running, {len(self._waiting)} requests wait>"

    # -- life --------------------------------------------------------------------------------------------------

    async def open(self, launcher: Launcher) -> None:
        """Templates made, minimum of shards ready. Raises what hindered it; then ``close`` is still to be called."""
        self.launcher = launcher
        self._loop = asyncio.get_running_loop()
        await launcher.prepare()
        self._tick()
        while self._tasks:
            await asyncio.wait(set(self._tasks))
            for error in self._first_failure.values():
                raise error
        self._periodic()

    async def close(self, grace_s: float) -> None:
        """End every shard; nothing remains."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self.fail(NodeError("the node is stopping"))
        for port in list(self.ports.values()):
            port.stop(grace_s)
        end_s = self._clock.monotonic_s() + grace_s
        while self.ports and self._clock.monotonic_s() < end_s:
            await asyncio.sleep(0.005)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=5)
        if self.launcher is not None:
            for port in list(self.ports.values()):
                with contextlib.suppress(ShardwrightError):
                    await self.launcher.end(port)
            await self.launcher.close()

    def fail(self, error: NodeError) -> None:
        """Fail every request that waits; nothing is launched any more."""
        self._closing = True
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error)
                future.exception()

    # -- taking ------------------------------------------------------------------------------------------------

    async def compose(self, session: SessionNumber, needs: tuple[Need, ...], timeout_s: float | None) -> Granted:
        """All that a session needs, or CompositionRefused and none of it."""
        now = self._clock.monotonic_s()
        deadline_s = now + (COMPOSE_TIMEOUT_S if timeout_s is None else timeout_s)

        def decide() -> Decision:
            return self.composer.compose(next(self._requests), session, needs, self._clock.monotonic_s(), deadline_s)

        return await self._granted(decide, deadline_s)

    async def acquire(
        self, session: SessionNumber, component: ComponentName, key: str | None, lost: Collection[str] = ()
    ) -> Lease:
        """The shard for that component and key, held or bound now; it runs. Raises CompositionRefused, ShardLost.

        ``lost`` are shards that the caller saw end: if one of them is meant, its end is waited for, a while.
        """
        for _ in range(ATTEMPTS):
            self.check_lives(session)
            lease = await self._acquire(session, component, key)
            port = self.ports.get(lease.shard)
            if port is not None and lease.shard in lost:
                await self._end_of(lease.shard)
                lost = ()  # if it lives on, then just a channel broke
                continue
            if port is not None and port.alive():
                return lease
            # it died, and whoever asks may know that before we do: what is bound must not be dead already
            await self._buried(lease.shard)
        raise ShardLost(f"shards of {component} end as soon as they start", outcome="not started")

    async def _acquire(self, session: SessionNumber, component: ComponentName, key: str | None) -> Lease:
        deadline_s = self._clock.monotonic_s() + COMPOSE_TIMEOUT_S

        def decide() -> Decision:
            now = self._clock.monotonic_s()
            return self.composer.acquire(next(self._requests), session, component, key, now, deadline_s)

        granted = await self._granted(decide, deadline_s)
        for lease in granted.leases:
            if lease.component == component and lease.key == key:
                return lease
        held = self.composer.lease(session, component, key)
        if held is None:
            raise CompositionRefused(f"{component} was lost as soon as it was leased")
        return Lease(component, held, key)

    async def _end_of(self, shard: ShardId) -> None:
        """Wait until that shard has ended, for as long as a killed process may take to close its descriptors."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._ends.setdefault(shard, []).append(future)
        await asyncio.wait({future}, timeout=END_TIMEOUT_S)
        if not future.done():
            self._ends[shard].remove(future)
        await self._buried(shard)

    async def _buried(self, shard: ShardId) -> None:
        burial = self._burials.get(shard)
        if burial is not None:
            await asyncio.wait({burial})

    # -- decisions and effects ---------------------------------------------------------------------------------

    async def _granted(self, decide: Callable[[], Decision], deadline_s: float) -> Granted:
        """The composition, whole; begun again when a shard of it died before it was whole: nothing was used yet."""
        while True:
            try:
                decision = decide()
                granted = await self._settled(decision)
                self.check_lives(decision.session)
                return granted
            except _Unlucky as unlucky:
                if self._clock.monotonic_s() > deadline_s:
                    raise CompositionRefused(f"shards end as soon as they start: {unlucky}") from None
                self.check_lives(decision.session)

    def check_lives(self, session: SessionNumber) -> None:
        """To be asked after every await: give back what a session got after its end. Raises NotPermitted."""
        if not self._events.session_lives(session):
            self.perform(self.composer.end_session(session, self._clock.monotonic_s()))
            self.freed()
            raise NotPermitted("the session has ended", outcome="not started", remedy="begin a new one")

    async def _settled(self, decision: Decision) -> Granted:
        """The composition, whole. Raises CompositionRefused, or what hindered a start."""
        request = decision.request
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting[request] = future
        self._decided(decision)
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError:
            self._grants.pop(request, None)
            self.perform(self.composer.cancel(request, self._clock.monotonic_s()))
            self.freed()
            raise
        finally:
            self._waiting.pop(request, None)
        return self._grants.pop(request)

    def _decided(self, decision: Decision) -> None:
        session = self._events.session_name(decision.session)
        match decision:
            case Granted():
                self._grants[decision.request] = decision
                leases = ", ".join(f"{lease.component}={lease.shard}" for lease in decision.leases)
                self._events.record(
                    "lease", decision.reason, session=session, inputs=(("leases", leases), *decision.inputs)
                )
                for launch in decision.launches:
                    self._begin(launch)
                if decision.ready:
                    self._resolve(decision.request)
            case Queued():
                self._events.record("queue", decision.reason, session=session, inputs=decision.inputs)
                self.perform(decision.effects)
                self._arm()
            case Refused():
                self._events.record("refuse", decision.reason, session=session, inputs=decision.inputs)
                self._reject(decision.request, CompositionRefused(decision.reason, remedy=decision.remedy))

    def _resolve(self, request: int) -> None:
        granted = self._grants.get(request)
        leased = [lease.shard for lease in granted.leases] if granted is not None else []
        doubted = {shard: proof for shard in leased if (proof := self._loads.proof(shard)) is not None}
        if doubted:
            self.spawn(self._resolve_proved(request, doubted))
        else:
            self._resolve_now(request)

    async def _resolve_proved(self, request: int, doubted: Mapping[ShardId, asyncio.Future[bool]]) -> None:
        for shard, proof in doubted.items():
            if not await self._prove(shard, proof):
                await self._buried(shard)
                self._reject(request, _Unlucky(f"{shard} was busy still"))
                return
        self._resolve_now(request)

    def _resolve_now(self, request: int) -> None:
        future = self._waiting.get(request)
        if future is not None and not future.done():
            future.set_result(None)

    def _reject(self, request: int, error: BaseException) -> None:
        self._grants.pop(request, None)
        future = self._waiting.get(request)
        if future is not None and not future.done():
            future.set_exception(error)
            future.exception()

    def perform(self, effects: Iterable[Effect], error: ShardwrightError | None = None) -> None:
        for effect in effects:
            match effect:
                case Abort():
                    self._events.record(
                        "abort", effect.reason, session=self._events.session_name(effect.session), inputs=effect.inputs
                    )
                    self._reject(effect.request, error or CompositionRefused(effect.reason, remedy=effect.remedy))
                case ReturnToPool():
                    self._events.record(
                        "return", effect.reason, component=effect.component, shard=effect.shard, inputs=effect.inputs
                    )
                    proof = self._loads.begin_proof(effect.shard)
                    if proof is not None:
                        self.spawn(self._prove_free(effect.shard, proof))
                case Stop():
                    self._events.record(
                        "stop", effect.reason, component=effect.component, shard=effect.shard, inputs=effect.inputs
                    )
                    self.spawn(self._stop(effect.shard))
                case Unbind():
                    self._events.record(
                        "unbind", effect.reason, component=effect.component, shard=effect.shard, inputs=effect.inputs
                    )
                    for port in list(self.ports.values()):
                        port.forget(effect.component, effect.session)
                    self._events.session_left(effect.session, effect.shard)

    def _begin(self, launch: Launch) -> None:
        self._events.record(
            "launch", launch.reason, component=launch.component, shard=launch.shard, inputs=launch.inputs
        )
        self.spawn(self._launch(launch))

    async def _launch(self, launch: Launch) -> None:
        assert self.launcher is not None
        begun_s = self._clock.monotonic_s()
        terminal = launch.component == self._terminal
        try:
            port = await self.launcher.launch(launch.component, launch.shard, launch.limits, terminal)
        except Exception as defect:  # whoever waits for it must hear of it, whatever it was
            error = defect if isinstance(defect, ShardwrightError) else _not_started(launch.component, defect)
            count, _ = self._failures.get(launch.component, (0, 0.0))
            now = self._clock.monotonic_s()
            self._failures[launch.component] = (count + 1, now)
            self._first_failure.setdefault(launch.component, error)
            self._events.record("failure", f"it did not start: {error}", component=launch.component, shard=launch.shard)
            self.perform(self.composer.start_failed(launch.shard, str(error), now), error)
            self._events.shard_ended(launch.shard, str(error))
            self.freed()
            return
        now = self._clock.monotonic_s()
        self.ports[launch.shard] = port
        self._loop.call_later(SHORT_LIFE_S, self._lives, launch.component, launch.shard)
        self._events.record(
            "ready", self.launcher.how(launch.component), component=launch.component, shard=launch.shard,
            inputs=(("start_s", round(now - begun_s, 6)), ("pid", port.pid)),
        )  # fmt: skip
        record = self.composer.shard(launch.shard)
        self._events.shard_ready(port, record.sessions if record is not None else ())
        for request in self.composer.started(launch.shard, now):
            self._resolve(request)
        if record is None or record.stopping:
            # it was decided to stop it while it started
            await self._stop(launch.shard)
        self._later_tick()

    def _lives(self, component: ComponentName, shard: ShardId) -> None:
        if shard in self.ports:
            self._failures.pop(component, None)
            self._short_lives.pop(component, None)

    def _lost(self, port: ShardPort, now: float) -> None:
        """A start after which nobody lived is no success: else a component that crashes would keep us busy for ever."""
        self._short_lives[port.component] += 1
        if self._short_lives[port.component] > SHORT_LIVES:
            count, _ = self._failures.get(port.component, (0, 0.0))
            self._failures[port.component] = (count + 1, now)

    async def _stop(self, shard: ShardId) -> None:
        port = self.ports.get(shard)
        if port is None:
            return
        self._stopping.add(shard)
        port.stop(STOP_GRACE_S)
        end_s = self._clock.monotonic_s() + STOP_GRACE_S + 1.0
        while shard in self.ports and self._clock.monotonic_s() < end_s:
            await asyncio.sleep(0.01)
        if shard in self.ports:
            self.gone(port, "it did not stop in time")

    # -- what shards say of their load -------------------------------------------------------------------------

    def loaded(self, port: ShardPort, load: Load) -> None:
        """A shard answers what runs in it."""
        idle_s = self._loads.heard(port.shard, load)
        record = self.composer.shard(port.shard)
        if idle_s is None or record is None:
            return
        now = self._clock.monotonic_s()
        for session in record.sessions:
            self.composer.touch(session, now - idle_s)
        timeout_s = self._components[port.component].idle_timeout_s
        if timeout_s is not None and idle_s >= timeout_s and not self._closing:
            self._loads.silent(port.shard)
            self._expire()
            self._loads.decided(port.shard)

    def _expire(self) -> bool:
        """Give back what is idle; whether anything was."""
        effects = self.composer.expire(self._clock.monotonic_s(), self._loads.may_be_used)
        if effects:
            self.perform(effects)
            self.freed()
        return bool(effects)

    async def _prove(self, shard: ShardId, proof: asyncio.Future[bool]) -> bool:
        """Whether nothing runs any more in a shard that was returned to the pool; if something does, it is ended."""
        await asyncio.wait({proof})
        if proof.result():
            return True
        reason = "it did not become free: a call of the session that it served still runs"
        effects = self.composer.evict(shard, self._clock.monotonic_s(), reason)
        self.perform(effects)
        port, record = self.ports.get(shard), self.composer.shard(shard)
        if port is not None and record is not None and not record.stopping:
            self._stopping.add(shard)  # whoever got it meanwhile gets another
            self.gone(port, reason)
        return False

    async def _prove_free(self, shard: ShardId, proof: asyncio.Future[bool]) -> None:
        await self._prove(shard, proof)

    def freed(self) -> None:
        """Something was given back: queued requests may be served now, and the pool may want more."""
        for decision in self.composer.poll(self._clock.monotonic_s()):
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
                    decision = self.composer.launch(action.component, now, action.reason)
                    if isinstance(decision, Refused):
                        self._events.record(
                            "refuse", decision.reason, component=action.component, inputs=decision.inputs
                        )
                        break
                    self._begin(decision)
            else:
                self.perform(self.composer.evict(action.shard, now, action.reason))

    def _pool_state(self) -> PoolState:
        by_component: dict[ComponentName, list[ShardRecord]] = {name: [] for name in self._components}
        for record in self.composer.shards():
            by_component[record.component].append(record)
        pools = []
        for definition in self._plan.definitions:
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
        return PoolState(tuple(pools), self.composer.left(), len(self.composer.queued()))

    def _periodic(self) -> None:
        """Expiry, deadlines and retries; four times a second."""
        if self._closing:
            return
        self._timer = self._loop.call_later(PERIOD_S, self._periodic)
        try:
            if not self._expire():
                if self.composer.queued():
                    self.freed()
                else:
                    self._later_tick()
        except Exception as defect:
            if repr(defect) != self._defect:  # said once: it may come back with every period
                self._defect = repr(defect)
                self._events.record("failure", f"the regular work of the node failed: {defect!r}")

    def _arm(self) -> None:
        deadline_s = self.composer.next_deadline_s()
        if deadline_s is not None:
            self._loop.call_later(max(0.0, deadline_s - self._clock.monotonic_s()) + 0.001, self.freed)

    # -- ends --------------------------------------------------------------------------------------------------

    def gone(self, port: ShardPort, reason: str) -> None:
        """A shard ended, by itself or by our will."""
        if self.ports.pop(port.shard, None) is None:
            return
        self._loads.forget(port.shard)
        for future in self._ends.pop(port.shard, ()):
            future.set_result(None)
        self._burials[port.shard] = self.spawn(self._bury(port, reason))

    async def _bury(self, port: ShardPort, reason: str) -> None:
        assert self.launcher is not None
        try:
            ended = await self.launcher.end(port)
            reason = end_in_words(reason, ended)
        except ShardwrightError as error:
            reason = f"{reason}; cleaning up: {error}"
        now = self._clock.monotonic_s()
        shard = port.shard
        self._burials.pop(shard, None)
        wanted = shard in self._stopping
        self._stopping.discard(shard)
        if self.composer.shard(shard) is not None:
            loss = self.composer.exited(shard, now, reason)
            sessions = ",".join(self._events.session_name(s) for s in loss.sessions)
            kind = "ended" if wanted or loss.expected or self._closing else "loss"
            self._events.record(
                kind, reason, component=port.component, shard=shard, inputs=(("sessions", sessions), *loss.inputs)
            )
            if kind == "loss":
                self._lost(port, now)
            self.perform(loss.effects, _Unlucky(f"{shard} was lost: {reason}"))
        self._events.shard_ended(shard, reason)
        if not self._closing:
            self.freed()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run it as a task of the node, which is ended with the node."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._loop.call_exception_handler({"message": "a task of the node failed", "exception": task.exception()})
