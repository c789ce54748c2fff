"""Who waits for shards, and what was granted to whom.

Decisions are synchronous and atomic between two awaits. What waits for shards to start waits on futures keyed by request;
an aborted composition fails its future, so nobody waits for what will not come.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from typing import Any, Protocol

from shardwright.composition import Composer, Decision, Effect, Granted, Launch, Lease, Need, Queued, Refused
from shardwright.contracts.clock import Clock
from shardwright.errors import CompositionRefused, NodeError, NotPermitted, ShardLost, ShardwrightError
from shardwright.model.ids import ComponentName, SessionNumber, ShardId
from shardwright.node._port import ShardPort
from shardwright.node._shard_events import ShardEvents

COMPOSE_TIMEOUT_S = 10.0
ATTEMPTS = 5  # to compose, when shards die meanwhile


class LivingShards(Protocol):
    """What is asked of those who make and end shards."""

    @property
    def ports(self) -> Mapping[ShardId, ShardPort]: ...

    def begin(self, launch: Launch) -> None: ...

    def perform(self, effects: Iterable[Effect], error: ShardwrightError | None = None) -> None: ...

    def freed(self) -> None: ...

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]: ...

    def proof(self, shard: ShardId) -> asyncio.Future[bool] | None:
        """Of one that is to be proved free before it serves somebody else."""

    async def prove(self, shard: ShardId, proof: asyncio.Future[bool]) -> bool: ...

    async def end_of(self, shard: ShardId) -> None: ...

    async def buried(self, shard: ShardId) -> None: ...


class Unlucky(CompositionRefused):
    """A shard of the composition died before the composition was whole."""


class Grants:
    """Requests for shards, from the question to the whole composition. Use from the node's event loop alone."""

    def __init__(self, composer: Composer, clock: Clock, events: ShardEvents, shards: LivingShards) -> None:
        self._composer = composer
        self._clock = clock
        self._events = events
        self._shards = shards
        self._requests = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._grants: dict[int, Granted] = {}
        self._failure: NodeError | None = None

    def __repr__(self) -> str:
        return f"<Grants {len(self._waiting)} requests wait>"

    def __len__(self) -> int:
        return len(self._waiting)

    def fail(self, error: NodeError) -> None:
        """Fail every request that waits, or will come."""
        self._failure = error
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error)
                future.exception()

    async def compose(self, session: SessionNumber, needs: tuple[Need, ...], timeout_s: float | None) -> Granted:
        """All that a session needs, or CompositionRefused and none of it."""
        now = self._clock.monotonic_s()
        deadline_s = now + (COMPOSE_TIMEOUT_S if timeout_s is None else timeout_s)

        def decide() -> Decision:
            return self._composer.compose(next(self._requests), session, needs, self._clock.monotonic_s(), deadline_s)

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
            port = self._shards.ports.get(lease.shard)
            if port is not None and lease.shard in lost:
                await self._shards.end_of(lease.shard)
                lost = ()  # if it lives on, then just a channel broke
                continue
            if port is not None and port.alive():
                return lease
            # it died, and whoever asks may know that before we do: what is bound must not be dead already
            await self._shards.buried(lease.shard)
        raise ShardLost(f"shards of {component} end as soon as they start", outcome="not started")

    async def _acquire(self, session: SessionNumber, component: ComponentName, key: str | None) -> Lease:
        asked_s = self._clock.monotonic_s()
        deadline_s = asked_s + COMPOSE_TIMEOUT_S
        had = self._composer.has(session, component, key, asked_s) if self._failure is None else None
        if had is not None and self._shards.proof(had) is None:
            return Lease(component, had, key)

        def decide() -> Decision:
            now = self._clock.monotonic_s()
            return self._composer.acquire(next(self._requests), session, component, key, now, deadline_s)

        granted = await self._granted(decide, deadline_s)
        for lease in granted.leases:
            if lease.component == component and lease.key == key:
                return lease
        held = self._composer.lease(session, component, key)
        if held is None:
            raise CompositionRefused(f"{component} was lost as soon as it was leased")
        return Lease(component, held, key)

    async def _granted(self, decide: Callable[[], Decision], deadline_s: float) -> Granted:
        """The composition, whole; begun again when a shard of it died before it was whole: nothing was used yet."""
        begun_s = self._clock.monotonic_s()
        while True:
            if self._failure is not None:
                raise self._failure
            result = "refused"
            try:
                decision = decide()
                granted = await self._settled(decision)
                result = "granted"
                self.check_lives(decision.session)
                return granted
            except asyncio.CancelledError:
                result = "cancelled"
                raise
            except Unlucky as unlucky:
                result = "lost"
                if self._clock.monotonic_s() > deadline_s:
                    raise CompositionRefused(f"shards end as soon as they start: {unlucky}") from None
                self.check_lives(decision.session)
            finally:
                self._events.composed(result, self._clock.monotonic_s() - begun_s)

    def enter(self, session: SessionNumber, needs: tuple[Need, ...], preferred: frozenset[ShardId]) -> None:
        """A session was taken that was composed ahead: lease what it has."""
        now = self._clock.monotonic_s()
        decision = self._composer.compose(next(self._requests), session, needs, now, now + COMPOSE_TIMEOUT_S, preferred)
        self.decided(decision)
        self._grants.pop(decision.request, None)
        if isinstance(decision, Queued):  # it lost a shard just then; its next call asks for another
            self._shards.perform(self._composer.cancel(decision.request, now))
        self._events.composed("granted" if isinstance(decision, Granted) else "refused", 0.0)

    def check_lives(self, session: SessionNumber) -> None:
        """To be asked after every await: give back what a session got after its end. Raises NotPermitted."""
        if not self._events.session_lives(session):
            self._shards.perform(self._composer.end_session(session, self._clock.monotonic_s()))
            self._shards.freed()
            raise NotPermitted("the session has ended", outcome="not started", remedy="begin a new one")

    async def _settled(self, decision: Decision) -> Granted:
        """The composition, whole. Raises CompositionRefused, or what hindered a start."""
        request = decision.request
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[request] = future
        self.decided(decision)
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError:
            self._grants.pop(request, None)
            self._shards.perform(self._composer.cancel(request, self._clock.monotonic_s()))
            self._shards.freed()
            raise
        finally:
            self._waiting.pop(request, None)
        return self._grants.pop(request)

    def decided(self, decision: Decision) -> None:
        session = self._events.session_name(decision.session)
        match decision:
            case Granted():
                self._grants[decision.request] = decision
                leases = ", ".join(f"{lease.component}={lease.shard}" for lease in decision.leases)
                self._events.record(
                    "lease", decision.reason, session=session, inputs=(("leases", leases), *decision.inputs)
                )
                launched = {launch.shard for launch in decision.launches}
                for lease in decision.leases:
                    if lease.shard not in decision.kept:
                        waits = "cold" if lease.shard in launched else "starting"
                        self._events.leased(lease.component, waits if lease.shard in decision.waits_for else "warm")
                for launch in decision.launches:
                    self._shards.begin(launch)
                if decision.ready:
                    self.resolve(decision.request)
            case Queued():
                self._events.record("queue", decision.reason, session=session, inputs=decision.inputs)
                self._shards.perform(decision.effects)
                self._arm()
                self._events.lacks_room()
            case Refused():
                self._events.record("refuse", decision.reason, session=session, inputs=decision.inputs)
                self.reject(decision.request, CompositionRefused(decision.reason, remedy=decision.remedy))

    def resolve(self, request: int) -> None:
        granted = self._grants.get(request)
        leased = [lease.shard for lease in granted.leases] if granted is not None else []
        doubted = {shard: proof for shard in leased if (proof := self._shards.proof(shard)) is not None}
        if doubted:
            self._shards.spawn(self._resolve_proved(request, doubted))
        else:
            self._resolve_now(request)

    async def _resolve_proved(self, request: int, doubted: Mapping[ShardId, asyncio.Future[bool]]) -> None:
        for shard, proof in doubted.items():
            if not await self._shards.prove(shard, proof):
                await self._shards.buried(shard)
                self.reject(request, Unlucky(f"{shard} was busy still"))
                return
        self._resolve_now(request)

    def _resolve_now(self, request: int) -> None:
        future = self._waiting.get(request)
        if future is not None and not future.done():
            future.set_result(None)

    def reject(self, request: int, error: BaseException) -> None:
        self._grants.pop(request, None)
        future = self._waiting.get(request)
        if future is not None and not future.done():
            future.set_exception(error)
            future.exception()

    def _arm(self) -> None:
        deadline_s = self._composer.next_deadline_s()
        if deadline_s is not None:
            asyncio.get_running_loop().call_later(
                max(0.0, deadline_s - self._clock.monotonic_s()) + 0.001, self._shards.freed
            )
