"""The composition root of one machine: sessions, and what shards say. Everything runs on one event loop.

Over 400 lines long: it is where all parts of a node meet.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import secrets
from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, Protocol

from msgspec.structs import replace

from shardwright._version import VERSION
from shardwright.composition import ShardRecord, needs_of
from shardwright.contracts.clock import Clock
from shardwright.contracts.sandbox import Exit
from shardwright.controller import PoolPolicy
from shardwright.errors import NodeError, ShardLost
from shardwright.guest import (
    EXIT_DEFECT,
    AskNode,
    Attached,
    Bind,
    Counts,
    Finished,
    FromGateway,
    Load,
    Note,
    Patched,
    Stacks,
    Unsaid,
    Why,
)
from shardwright.guest import Unbind as UnbindRequest
from shardwright.model.ids import ComponentName, SessionId, SessionNumber, ShardId, new_shard_id
from shardwright.model.manifest import Component, Manifest, Scale, implicit
from shardwright.model.shard import GATEWAY_COMPONENT, MAIN_COMPONENT, ShardPlan
from shardwright.monitoring import NodeMonitor
from shardwright.node._bindings import CLIENT, Bindings
from shardwright.node._composed_ahead import ComposedAhead, taken_already
from shardwright.node._control import Control
from shardwright.node._denials import denial
from shardwright.node._gateway_sessions import GatewaySessions
from shardwright.node._journal import Journal
from shardwright.node._launcher import Launcher
from shardwright.node._ledger import Ledger
from shardwright.node._live_session import LiveSession
from shardwright.node._logs import Logs
from shardwright.node._looks import Questions
from shardwright.node._mask import Mask
from shardwright.node._numbers import Numbers
from shardwright.node._overview import Overview
from shardwright.node._pool import policy_of
from shardwright.node._port import ShardPort
from shardwright.node._recording import Recording
from shardwright.node._shards import STOP_GRACE_S, Shards
from shardwright.node._wires import Wires
from shardwright.placement import Capacity
from shardwright.telemetry import EventLog

MAX_RECORDS = 1000  # of notes and refusals that one shard causes; a chatterbox must not fill the journal
MOST_PAST_NAMES = 4096
JOURNAL_RETRY_S = (0.05, 0.25)  # the first time, and from then on


__all__ = ["CLIENT", "Core"]


class Bench(Protocol):
    """Who patches shards for a test run."""

    def shard_ready(self, port: ShardPort) -> None: ...

    def patched(self, port: ShardPort, patched: Patched) -> None: ...

    def gone(self, port: ShardPort) -> None: ...


class Core:
    """The running node. ``launcher`` makes shards, ``wires`` their channels. To be made on the node's loop."""

    def __init__(
        self,
        manifest: Manifest,
        plan: ShardPlan,
        *,
        capacity: Capacity,
        wires: Wires,
        journal: Journal,
        events: EventLog,
        clock: Clock,
        policy: PoolPolicy | None = None,
        random_source: random.Random | None = None,
        terminal: ComponentName | None = None,
        mask: Mask | None = None,
        gateway: bool = False,
        recording: Recording | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.manifest = manifest
        self.plan = plan
        self.events = events
        self.journal = journal
        self.wires = wires
        self._mask = mask or Mask()
        self.logs = Logs(self._session_of, conceal=self._mask.text)
        self._clock = clock
        source = random_source or random.Random(int.from_bytes(os.urandom(8), "little"))
        named: dict[str, Component] = {component.name: component for component in manifest.components}
        self._gateway = gateway
        components = self.components_of(manifest, plan)
        composer = Ledger(plan, named, capacity, lambda name: new_shard_id(name, source))
        self.shards = Shards(plan, components, composer, policy or policy_of(manifest), clock, self, terminal)
        monitor = NodeMonitor(manifest.app, VERSION, components, clock.wall_s())
        scopes = {d.component: d.scope.kind for d in plan.definitions}
        self.numbers = Numbers(
            monitor, self.shards, components, scopes, capacity.left(), lambda: len(self.sessions()), clock
        )
        self.overview = Overview(self.shards, self.sessions, journal, self._mask, clock)
        self.bindings = Bindings(plan, wires, self.shards, self, clock)
        self.questions = Questions()
        self.gateway_sessions = GatewaySessions(
            plan, manifest.gateway, self, lambda component: self.shards.composer.most_shards(component) is not None
        )
        self._sessions: dict[SessionNumber, LiveSession] = {}
        self.names: dict[str, SessionNumber] = {}  # of sessions that live, and of one that begins on another thread
        self._past_names: dict[int, str] = {}  # of ended sessions: their last lines may come after them
        self._caused: Counter[ShardId] = Counter()  # records in the journal by the word of a shard
        # no counting: a shard acts for a session by its number, and must not guess those that it never served
        self._numbers = (secrets.randbits(62) + 1 for _ in itertools.repeat(None))
        entries = [d.component for d in plan.definitions if d.component not in (MAIN_COMPONENT, GATEWAY_COMPONENT)]
        self.ahead = ComposedAhead(self, tuple(entries))
        composer.apart = self.ahead
        self.bindings.client_calls = self.ahead.called
        self._finished: dict[ShardId, asyncio.Future[Finished]] = {}
        self._closing = False
        self._retry: asyncio.TimerHandle | None = None  # of records that wait to be written
        self._stopped = False
        self.bench: Bench | None = None  # where a test run started the node
        self.resizing = asyncio.Lock()  # one at a time: each goes by what the last one left
        self.control = Control(self, capacity.usable(), journal.path.parent, clock, manifest.policy.tick_s, recording)

    # -- life --------------------------------------------------------------------------------------------------

    async def open(self, launcher: Launcher) -> None:
        """Templates made, minimum of shards ready. Raises what hindered it; then ``close`` is still to be called."""
        self.record("node", f"node for {self.manifest.app} starts", inputs=(("pid", os.getpid()),))
        await self.shards.open(launcher)
        self.numbers.state = "open"
        self.control.open()
        self.record("node", "ready")

    async def close(self, grace_s: float = STOP_GRACE_S) -> None:
        """End every session and shard; nothing remains."""
        if self._closing:
            return
        self._closing = True
        self.numbers.state = "closing"
        self.ahead.close()
        await self.control.close()
        if manifest_gateway := self.manifest.gateway:
            await self.shards.drain(GATEWAY_COMPONENT, manifest_gateway.drain_s)
        self.gateway_sessions.close()
        for session in list(self._sessions):
            self.end_session(session)
        await self.shards.close(grace_s)
        self.questions.close()
        self.logs.close()
        self._stopped = True
        self.record("node", "stopped")
        if self._retry is not None:
            self._retry.cancel()

    def fail(self, reason: str) -> None:
        """Something that the node cannot live without is gone: fail whoever waits."""
        self.numbers.state, self.numbers.failure = "failed", reason
        self.ahead.close()
        self.bindings.fail(reason)
        self.record("failure", reason)
        self.shards.fail(NodeError(reason))
        for future in self._finished.values():
            if not future.done():
                future.set_exception(NodeError(reason))
                future.exception()

    @property
    def components(self) -> Mapping[ComponentName, Component]:
        return self.shards.components

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
        session = LiveSession(self.new_number(), name, self._clock.wall_s())
        if self.names.setdefault(name, session.number) != session.number:
            raise taken_already(name)
        self._sessions[session.number] = session
        entries = (
            components
            if components is not None
            else [d.component for d in self.plan.definitions if d.component not in (MAIN_COMPONENT, GATEWAY_COMPONENT)]
        )
        try:
            needs = needs_of(self.plan, entries, {component: repr(key) for component, key in keys.items()})
            await self.shards.compose(session.number, needs, timeout_s)
        except BaseException:
            self.end_session(session.number)
            raise
        self.introduce_all(session)
        self.ahead.begun(session.number)
        if components is None and not keys:
            self.ahead.wish()
        return session

    def new_number(self) -> SessionNumber:
        """Of a session to come."""
        return SessionNumber(next(self._numbers))

    def now_wall_s(self) -> float:
        return self._clock.wall_s()

    def enter(self, session: LiveSession) -> None:
        """It was composed ahead, and taken."""
        self._sessions[session.number] = session

    def end_session(self, number: SessionNumber) -> None:
        """Give back everything that it holds. Idempotent."""
        self.ahead.settle()
        session = self._sessions.get(number)
        if session is None:
            return
        self.ahead.ended(number)
        self.logs.drain(session.told)  # what it wrote before its end is still its own
        del self._sessions[number]
        self.names.pop(session.name, None)
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
        self.ahead.settle()
        own = self.bindings.own()
        return [s for s in self._sessions.values() if s.number not in own]

    def begin_own(self, shard: ShardId) -> SessionNumber:
        """A session in which that shard acts for itself, until it ends."""
        number = self.new_number()
        self._sessions[number] = LiveSession(number, f"({shard})", self._clock.wall_s())
        return number

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self.shards.spawn(coroutine)

    def touch(self, number: SessionNumber) -> None:
        self.shards.composer.touch(number, self._clock.monotonic_s())

    # -- what shards say (PortEvents) --------------------------------------------------------------------------

    def on_bind(self, port: ShardPort, bind: Bind) -> None:
        self.bindings.on_bind(port, bind)

    def on_unbind(self, port: ShardPort, unbind: UnbindRequest) -> None:
        self.bindings.on_unbind(port, unbind)

    def on_ask(self, port: ShardPort, message: FromGateway) -> None:
        if isinstance(message, AskNode) and port.component == GATEWAY_COMPONENT:
            self.shards.spawn(self.numbers.tell(port, message, self.overview))
        else:
            self.gateway_sessions.on_ask(port, message)

    def on_why(self, port: ShardPort, why: Why) -> None:
        self.bindings.on_why(port, why)

    def on_load(self, port: ShardPort, load: Load) -> None:
        self.shards.loaded(port, load)

    def on_counts(self, port: ShardPort, counts: Counts) -> None:
        self.numbers.heard(port, counts)

    def on_unsaid(self, port: ShardPort, unsaid: Unsaid) -> None:
        self.bindings.on_unsaid(port, unsaid)

    def on_finished(self, port: ShardPort, finished: Finished) -> None:
        future = self._finished.pop(port.shard, None)
        if future is not None and not future.done():
            future.set_result(finished)

    def on_note(self, port: ShardPort, note: Note) -> None:
        if note.kind == "denied":
            if said := denial(self.manifest, port.component, note.message):
                self.record_of(port, "denied", said)
            return
        self.record_of(port, "note", f"{note.kind[:32]}: {note.message[:2000]}")

    def record_of(self, port: ShardPort, kind: str, reason: str) -> None:
        """Something that a shard caused, as often as it may."""
        self._caused[port.shard] += 1
        if self._caused[port.shard] < MAX_RECORDS:
            self.record(kind, reason, component=port.component, shard=port.shard)
        elif self._caused[port.shard] == MAX_RECORDS:
            self.record(kind, "and more, which is not recorded", component=port.component, shard=port.shard)

    def on_patched(self, port: ShardPort, patched: Patched) -> None:
        if self.bench is not None:
            self.bench.patched(port, patched)

    def on_look(self, port: ShardPort, answer: Stacks | Attached) -> None:
        self.questions.answered(port, answer)

    def on_gone(self, port: ShardPort, reason: str) -> None:
        if self.bench is not None:
            self.bench.gone(port)
        self.shards.gone(port, reason)

    # -- what becomes of shards (ShardEvents) ------------------------------------------------------------------

    def shard_ready(self, port: ShardPort, sessions: tuple[SessionNumber, ...]) -> None:
        for number in sessions:
            self.introduce(number, port.shard)
        if self.bench is not None:
            self.bench.shard_ready(port)
        self.numbers.began(port)
        port.attach(self)
        self.questions.begins(port)
        self.bindings.offer(port)
        self.ahead.start_with(port, sessions)
        self.ahead.soon()

    def session_left(self, number: SessionNumber, shard: ShardId) -> None:
        session = self._sessions.get(number)
        if session is not None and shard in session.told:
            self.logs.drain((shard,))
            session.told.discard(shard)
            if shard in self.shards.ports:
                self.shards.ports[shard].session_ends(number)

    def shard_ended(self, shard: ShardId, component: ComponentName, reason: str, by_itself: Exit | None = None) -> None:
        self.questions.ended(shard)
        self.ahead.forget(shard)
        for session in self._sessions.values():
            session.told.discard(shard)
        self._caused.pop(shard, None)
        own = self.bindings.forget(shard)
        if own is not None:
            self.end_session(own)
        future = self._finished.pop(shard, None)
        if future is not None and not future.done():
            if (
                by_itself is not None
                and by_itself.status is not None
                and by_itself.status >= 0
                and by_itself.status != EXIT_DEFECT
            ):
                future.set_result(Finished(by_itself.status))  # the program left by os._exit
            else:
                future.set_exception(ShardLost(f"{shard} ended while it ran the program: {reason}"))
        self.numbers.ended(shard)
        self.control.ended(shard, component, by_itself is not None and by_itself.out_of_memory)
        self.logs.forget(shard)

    def composed(self, result: str, took_s: float) -> None:
        self.numbers.monitor.composed(result, took_s)

    def lacks_room(self) -> None:
        self.control.lacks_room()

    def leased(self, component: str, source: str) -> None:
        self.numbers.monitor.leased(component, source)
        self.shards.leased(ComponentName(component), source)

    # -- the entry program -------------------------------------------------------------------------------------

    async def run_main(self, component: ComponentName, target: str) -> Finished:
        """Run ``app.main`` in its shard, in a session of its own."""
        session = await self.begin_session("main", {}, components=[component])
        try:
            lease = await self.shards.acquire(session.number, component, None)
            port = self.shards.ports.get(lease.shard)
            if port is None:
                raise ShardLost(f"{lease.shard} ended before it could run the program")
            future: asyncio.Future[Finished] = self._loop.create_future()
            self._finished[lease.shard] = future
            port.run_main(target, session.number)
            return await future
        finally:
            self.end_session(session.number)

    def runs_program(self, shard: ShardId) -> bool:
        """Whether ``app.main`` runs there now."""
        return shard in self._finished

    def components_of(self, manifest: Manifest, plan: ShardPlan) -> dict[ComponentName, Component]:
        """What is stated of each component of the plan, and of those that no manifest states."""
        named: dict[str, Component] = {component.name: component for component in manifest.components}
        found = {d.component: named.get(d.component) or implicit(d.component, d.code.primary) for d in plan.definitions}
        if self._gateway and GATEWAY_COMPONENT in found:  # it is there from the start, and anew whenever it dies
            found[GATEWAY_COMPONENT] = replace(found[GATEWAY_COMPONENT], scale=Scale(min=1, max=1))
        return found

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
        reason = self._mask.text(reason)
        inputs = tuple((name, self._mask.value(value)) for name, value in inputs)
        self.numbers.monitor.recorded(kind, component, dict(inputs))
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
        self.ahead.settle()
        session = self._sessions.get(SessionNumber(number))
        return session.name if session is not None else self._past_names.get(number, "")

    def last_lines(self, shard: str) -> tuple[str, ...]:
        return self.logs.last_lines(shard)

    def session_lives(self, number: SessionNumber) -> bool:
        self.ahead.settle()
        return number in self._sessions

    def _session_of(self, shard: str, number: int) -> str:
        self.ahead.settle()
        session = self._sessions.get(SessionNumber(number))
        return session.name if session is not None and shard in session.told else ""

    def introduce(self, number: SessionNumber, shard: ShardId) -> None:
        """Tell the shard the session's name, if it does not know it yet."""
        session = self._sessions.get(number)
        if session is not None and shard not in session.told and shard in self.shards.ports:
            session.told.add(shard)
            self.shards.ports[shard].session_begins(session.number, session.name)

    def introduce_all(self, session: LiveSession) -> None:
        """Tell its name to all its shards that do not know it yet."""
        for shard in self.shards.composer.held_by(session.number):
            self.introduce(session.number, shard)
