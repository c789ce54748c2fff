"""The shards of a node, from their launch to their end: decisions of the composer and the pool's policy, performed.

A little beyond 400 lines: launching, effects and ends keep the same books.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Collection, Coroutine, Iterable, Mapping
from typing import Any

from shardwright.composition import (
    Abort,
    Composer,
    Effect,
    Granted,
    Launch,
    Lease,
    Need,
    ReturnToPool,
    Stop,
    Unbind,
)
from shardwright.contracts.clock import Clock
from shardwright.contracts.sandbox import Exit
from shardwright.controller import PoolCost, PoolPolicy
from shardwright.errors import CompositionRefused, NodeError, ShardwrightError, StartFailed
from shardwright.guest import WHY_PATIENCE_S, Load
from shardwright.model.ids import ComponentName, SessionNumber, ShardId
from shardwright.model.manifest import Component
from shardwright.model.shard import ShardPlan
from shardwright.node._grants import Grants, Unlucky
from shardwright.node._launcher import Launcher, cause_of, end_in_words
from shardwright.node._loads import Loads
from shardwright.node._pool import SHORT_LIFE_S, Pool
from shardwright.node._port import ShardPort
from shardwright.node._shard_events import ShardEvents

STOP_GRACE_S = 2.0
END_TIMEOUT_S = 1.0
PERIOD_S = 0.25


def _not_started(component: ComponentName, defect: Exception) -> StartFailed:
    full = isinstance(defect, OSError) and defect.errno in (errno.EMFILE, errno.ENFILE)
    error = StartFailed(
        f"{component} could not be started: {defect if isinstance(defect, OSError) else repr(defect)}",
        remedy="raise the limit of open files (ulimit -n)" if full else "",
    )
    error.__cause__ = defect
    return error


MOST_PAST = 1024
LAST_LINES = 5  # of what a lost shard printed, in the event


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
        self._components = dict(components)
        self._clock = clock
        self._events = events
        self._terminal = terminal
        self._grants = Grants(composer, clock, events, self)
        self.pool = Pool(plan, self._components, composer, policy, clock, events, self.begin, self.perform)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopping: set[ShardId] = set()
        self._burials: dict[ShardId, asyncio.Task[None]] = {}
        self._ends: dict[ShardId, list[asyncio.Future[None]]] = {}  # who waits for which end
        self._timer: asyncio.TimerHandle | None = None
        self._past: dict[ShardId, tuple[ComponentName, str]] = {}  # how shards ended, the latest of them
        self._defect = ""  # of the regular work, the latest
        self._closing = False

    @property
    def components(self) -> Mapping[ComponentName, Component]:
        return self._components

    def __repr__(self) -> str:
        return f"<Shards {len(self.ports)} running, {len(self._grants)} requests wait>"

    # -- life --------------------------------------------------------------------------------------------------

    async def open(self, launcher: Launcher) -> None:
        """Templates made, minimum of shards ready. Raises what hindered it; then ``close`` is still to be called."""
        self.launcher = launcher
        self._loop = asyncio.get_running_loop()
        await launcher.prepare()
        self.pool.tick()
        while self._tasks:
            await asyncio.wait(set(self._tasks))
            if self.pool.first_failure is not None:
                raise self.pool.first_failure
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

    async def drain(self, component: ComponentName, grace_s: float) -> None:
        """Let the shards of that component finish what they do, while the others serve them; none is launched any more."""
        self.pool.close()
        ports = [port for port in self.ports.values() if port.component == component]
        for port in ports:
            self._stopping.add(port.shard)
            port.stop(grace_s)
        end_s = self._clock.monotonic_s() + grace_s + STOP_GRACE_S
        while any(port.shard in self.ports for port in ports) and self._clock.monotonic_s() < end_s:
            await asyncio.sleep(0.005)

    def fail(self, error: NodeError) -> None:
        """Fail every request that waits; nothing is launched any more."""
        self._closing = True
        self.pool.close()
        self._grants.fail(error)

    # -- taking ------------------------------------------------------------------------------------------------

    async def compose(self, session: SessionNumber, needs: tuple[Need, ...], timeout_s: float | None) -> Granted:
        """All that a session needs, or CompositionRefused and none of it."""
        return await self._grants.compose(session, needs, timeout_s)

    def enter(self, session: SessionNumber, needs: tuple[Need, ...], preferred: frozenset[ShardId]) -> None:
        """Lease what a session that was composed ahead has."""
        self._grants.enter(session, needs, preferred)

    async def acquire(
        self, session: SessionNumber, component: ComponentName, key: str | None, lost: Collection[str] = ()
    ) -> Lease:
        """The shard for that component and key, held or bound now; it runs. See ``Grants.acquire``."""
        return await self._grants.acquire(session, component, key, lost)

    def proof(self, shard: ShardId) -> asyncio.Future[bool] | None:
        return self._loads.proof(shard)

    async def end_of(self, shard: ShardId) -> None:
        """Wait until that shard has ended, for as long as a killed process may take to close its descriptors."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._ends.setdefault(shard, []).append(future)
        await asyncio.wait({future}, timeout=END_TIMEOUT_S)
        if not future.done():
            self._ends[shard].remove(future)
        await self.buried(shard)

    async def buried(self, shard: ShardId) -> None:
        burial = self._burials.get(shard)
        if burial is not None:
            await asyncio.wait({burial})

    # -- effects -----------------------------------------------------------------------------------------------

    def perform(self, effects: Iterable[Effect], error: ShardwrightError | None = None) -> None:
        for effect in effects:
            match effect:
                case Abort():
                    self._events.record(
                        "abort", effect.reason, session=self._events.session_name(effect.session), inputs=effect.inputs
                    )
                    self._grants.reject(
                        effect.request, error or CompositionRefused(effect.reason, remedy=effect.remedy)
                    )
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

    def begin(self, launch: Launch) -> None:
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
            now = self._clock.monotonic_s()
            self.pool.start_failed(launch.component, error, now)
            self._events.record("failure", f"it did not start: {error}", component=launch.component, shard=launch.shard)
            self.perform(self.composer.start_failed(launch.shard, str(error), now), error)
            self._events.shard_ended(launch.shard, launch.component, str(error))
            self.freed()
            return
        now = self._clock.monotonic_s()
        self.ports[launch.shard] = port
        self._loop.call_later(SHORT_LIFE_S, self._lives, port)
        self._events.record(
            "ready", self.launcher.how(launch.component), component=launch.component, shard=launch.shard,
            inputs=(("start_s", round(now - begun_s, 6)), ("pid", port.pid)),
        )  # fmt: skip
        self.pool.started(launch.component, now - begun_s)
        record = self.composer.shard(launch.shard)
        self._events.shard_ready(port, record.sessions if record is not None else ())
        for request in self.composer.started(launch.shard, now):
            self._grants.resolve(request)
        if record is None or record.stopping:
            # it was decided to stop it while it started
            await self._stop(launch.shard)
        self.pool.later_tick()

    def _lives(self, port: ShardPort) -> None:
        if self.ports.get(port.shard) is port:
            self.pool.lives(port.component)

    async def stop(self, shard: ShardId) -> None:
        """End a shard, whoever holds it, and wait until nothing of it is left."""
        await self._stop(shard)
        await self.buried(shard)

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

    def leased(self, component: ComponentName, source: str) -> None:
        """Somebody was given a shard of it, which was warm, or starting, or is launched now (cold)."""
        self.pool.leased(component, source)

    def pool_costs(self) -> tuple[PoolCost, ...]:
        """What the warm pool came to so far; empty where nobody counts."""
        return self.pool.costs()

    # -- other code ----------------------------------------------------------------------------------------------

    def take_up(
        self, plan: ShardPlan, components: Mapping[ComponentName, Component], changed: Iterable[ComponentName]
    ) -> None:
        """From now on shards are launched by that plan."""
        self.composer.take_up(plan, components)
        self._components.clear()  # it is the pool's as well
        self._components.update(components)
        self.pool.take_up(plan, changed)

    def now(self) -> float:
        """Of the clock that the composer goes by."""
        return self._clock.monotonic_s()

    async def drain_shard(self, shard: ShardId, grace_s: float) -> None:
        """End a shard that nobody is given any more, once its callers let go of it; after the grace in any case."""
        port = self.ports.get(shard)
        if port is None:
            return
        self._stopping.add(shard)
        port.stop(grace_s, drain=True)
        end_s = self._clock.monotonic_s() + grace_s + 1.0
        while shard in self.ports and self._clock.monotonic_s() < end_s:
            await asyncio.sleep(0.01)
        if shard in self.ports:
            self.gone(port, "it did not end in time")
        await self.buried(shard)

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

    async def prove(self, shard: ShardId, proof: asyncio.Future[bool]) -> bool:
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
        await self.prove(shard, proof)

    def freed(self) -> None:
        """Something was given back: queued requests may be served now, and the pool may want more."""
        for decision in self.composer.poll(self._clock.monotonic_s()):
            self._grants.decided(decision)
        self.pool.later_tick()

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
                    self.pool.later_tick()
        except Exception as defect:
            if repr(defect) != self._defect:  # said once: it may come back with every period
                self._defect = repr(defect)
                self._events.record("failure", f"the regular work of the node failed: {defect!r}")

    # -- ends --------------------------------------------------------------------------------------------------

    async def why(self, shard: ShardId, component: ComponentName) -> str:
        """How a shard of that component ended, in words; empty when that is not known soon."""
        end_s = self._clock.monotonic_s() + WHY_PATIENCE_S
        while shard not in self._past and self._clock.monotonic_s() < end_s:
            await asyncio.sleep(0.005)
        was, reason = self._past.get(shard, (component, ""))
        return reason if was == component else ""

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
        ended: Exit | None = None
        try:
            ended = await self.launcher.end(port)
            reason = end_in_words(reason, ended)
        except Exception as error:  # whatever it was, the shard is gone, and whoever counts on it must hear of that
            reason = f"{reason}; cleaning up: {error}"
        now = self._clock.monotonic_s()
        shard = port.shard
        self._burials.pop(shard, None)
        self._past[shard] = (port.component, reason)
        while len(self._past) > MOST_PAST:
            del self._past[next(iter(self._past))]
        wanted = shard in self._stopping
        self._stopping.discard(shard)
        if self.composer.shard(shard) is not None:
            loss = self.composer.exited(shard, now, reason)
            sessions = ",".join(self._events.session_name(s) for s in loss.sessions)
            kind = "ended" if wanted or loss.expected or self._closing else "loss"
            self._events.record(
                kind, reason, component=port.component, shard=shard,
                inputs=(
                    ("sessions", sessions), *loss.inputs, ("cause", cause_of(kind, ended)),
                    *((("log", "\n".join(self._events.last_lines(shard)[-LAST_LINES:])),) if kind == "loss" else ()),
                ),
            )  # fmt: skip
            if kind == "loss":
                self.pool.lost(port.component, now)
            self.perform(loss.effects, Unlucky(f"{shard} was lost: {reason}"))
        by_itself = None if wanted or self._closing else ended
        self._events.shard_ended(shard, port.component, reason, by_itself)
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
