"""Random applications, random events, tiny nodes: composition stays whole, fair to its bounds, and never gets stuck.

Every promise checked here is also shown to be able to fail: the same machine runs over composers with a planted bug,
and must find it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shardwright.composition import (
    Abort,
    Composer,
    Decision,
    Effect,
    Granted,
    Launch,
    Need,
    Queued,
    Refused,
    ReturnToPool,
    Stop,
    Unbind,
    _composer,
    needs_of,
)
from shardwright.composition._roster import SessionEntry
from shardwright.errors import InternalError
from shardwright.model.ids import ComponentName, SessionNumber, ShardId
from shardwright.model.limits import Limits, Resources
from shardwright.model.manifest import Component, Scale, UsageModel, Warm
from shardwright.model.scope import Scope, ScopeKind, Start, StateKind
from shardwright.model.shard import CodeSegment, PlanEdge, ShardDefinition, ShardPlan
from shardwright.placement import Capacity

NAMES = ("a", "b", "c", "d", "e")
SESSIONS = st.integers(1, 6).map(SessionNumber)
KEYS = st.sampled_from(("north", "south", "east"))


@st.composite
def components(draw: st.DrawFn) -> tuple[Component, ...]:
    made = []
    for name in NAMES[: draw(st.integers(2, len(NAMES)))]:
        kind = draw(st.sampled_from(ScopeKind))
        made.append(
            Component(
                ComponentName(name),
                name,
                Limits(guarantee=Resources(cpu=draw(st.sampled_from((None, 0.1, 0.5, 1.0, 1.5))), memory_bytes=1)),
                Scope(kind, "world" if kind is ScopeKind.KEY else ""),
                sessions_per_shard=draw(st.integers(1, 3)),
                reuse=draw(st.booleans()),
                warm=Warm(0, draw(st.integers(0, 2))),
                scale=Scale(1, draw(st.integers(1, 2))),
                usage=UsageModel(max_instances=draw(st.sampled_from((None, None, 1, 2, 3)))),
                idle_timeout_s=draw(st.sampled_from((None, 1.0, 3.0))),
            )
        )
    return tuple(made)


def plan_of(made: tuple[Component, ...], edges: set[tuple[str, str]]) -> ShardPlan:
    definitions = tuple(
        ShardDefinition(
            c.name, CodeSegment(c.code, (c.code,)), (), c.scope, StateKind.NONE, c.limits, "auto", Start.AUTO, ()
        )
        for c in made
    )
    wires = tuple(
        PlanEdge(ComponentName(caller), ComponentName(callee), "drawn", True, True) for caller, callee in sorted(edges)
    )
    return ShardPlan("drawn", "/", "", definitions, wires, (), (), (), ())


class Node(RuleBasedStateMachine):
    """Plays the node: performs what the composer decides, and keeps its own books of what it was told."""

    composer_class: ClassVar[type[Composer]] = Composer
    capacity_class: ClassVar[type[Capacity]] = Capacity

    @initialize(
        made=components(),
        edges=st.sets(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=8),
        cpu=st.sampled_from((1.0, 1.6, 2.0, 3.5)),
        patience=st.sampled_from((0, 1, 2, 16)),
    )
    def begin(self, made: tuple[Component, ...], edges: set[tuple[str, str]], cpu: float, patience: int) -> None:
        names = {c.name for c in made}
        self.components = {c.name: c for c in made}
        self.plan = plan_of(made, {(a, b) for a, b in edges if a in names and b in names})
        ids = itertools.count()
        self.composer = self.composer_class(
            self.plan,
            self.components,
            self.capacity_class(Resources(cpu=cpu, memory_bytes=100)),
            lambda component: ShardId(f"{component}-{next(ids):08x}"),
            patience=patience,
        )
        self.now = 0.0
        self.requests = itertools.count(1)
        self.queued: dict[int, SessionNumber] = {}
        self.starting: dict[int, set[ShardId]] = {}  # granted, and not whole
        self.needs: dict[int, tuple[Need, ...]] = {}
        self.alive: dict[ShardId, bool] = {}  # shard -> told to stop

    # -- the books -----------------------------------------------------------------------------------------------

    def decided(self, decision: Decision) -> None:
        assert decision.reason
        if isinstance(decision, Queued):
            self.queued[decision.request] = decision.session
            self.performed(decision.effects)
            return
        self.queued.pop(decision.request, None)
        if isinstance(decision, Refused):
            return
        assert {(lease.component, lease.key) for lease in decision.leases} == {
            (need.component, need.key) for need in self.needs[decision.request]
        }, "not whole"
        for launch in decision.launches:
            self.launched(launch)
        for lease in decision.leases:
            assert self.alive[lease.shard] is False, f"{lease.shard} was leased while it is stopped"
        if not decision.ready:
            self.starting[decision.request] = set(decision.waits_for)
        assert {launch.shard for launch in decision.launches} <= set(decision.waits_for)

    def launched(self, launch: Launch) -> None:
        assert launch.shard not in self.alive
        self.alive[launch.shard] = False

    def performed(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            assert effect.reason
            match effect:
                case Stop():
                    assert self.alive[effect.shard] is False, f"{effect.shard} was stopped twice, or is gone"
                    self.alive[effect.shard] = True
                case ReturnToPool():
                    assert self.alive[effect.shard] is False
                case Abort():
                    known = self.queued.pop(effect.request, None) is not None
                    known = self.starting.pop(effect.request, None) is not None or known
                    assert known, f"request {effect.request} was aborted, and was not in progress"
                case Unbind():
                    assert self.composer.lease(effect.session, effect.component) is None

    def ask(self, session: SessionNumber, needs: tuple[Need, ...], call: Callable[[int], Decision]) -> Decision:
        request = next(self.requests)
        self.needs[request] = needs
        before = self.composer.sessions()
        unheld = {shard.id for shard in self.composer.shards() if not shard.sessions}
        would_take, waiting = self.composer.would_take(session, needs), self.composer.queued()
        assert would_take is None or not waiting
        decision = call(request)
        taken = {lease.shard for lease in decision.leases} & unheld if isinstance(decision, Granted) else None
        if not waiting:
            assert taken == (None if would_take is None else set(would_take)), "it took others than it said it would"
        if not isinstance(decision, Granted):
            assert self.composer.sessions() == before, "something is held for a request that got nothing"
        self.decided(decision)
        return decision

    # -- rules ---------------------------------------------------------------------------------------------------

    @rule(
        session=SESSIONS,
        entries=st.sets(st.sampled_from(NAMES), min_size=1, max_size=2),
        key=KEYS,
        keyed=st.booleans(),
        patience=st.sampled_from((None, None, 2.0)),
    )
    def compose(self, session: SessionNumber, entries: set[str], key: str, keyed: bool, patience: float | None) -> None:
        entries &= set(self.components)
        keys = {c.name: key for c in self.components.values() if c.scope.kind is ScopeKind.KEY} if keyed else {}
        needs = needs_of(self.plan, sorted(entries), keys)
        deadline = None if patience is None else self.now + patience
        self.ask(session, needs, lambda r: self.composer.compose(r, session, needs, self.now, deadline))

    @rule(session=SESSIONS, name=st.sampled_from(NAMES), key=KEYS)
    def acquire(self, session: SessionNumber, name: str, key: str) -> None:
        component = self.components.get(ComponentName(name))
        if component is None:
            return
        bound = key if component.scope.kind is ScopeKind.KEY else None
        closure = [n for n in needs_of(self.plan, [name]) if n.component != name]
        needs = (*closure, Need(component.name, bound))
        had = self.composer.has(session, component.name, bound, self.now)
        decision = self.ask(
            session, needs, lambda r: self.composer.acquire(r, session, component.name, bound, self.now)
        )
        if had is not None:
            assert isinstance(decision, Granted) and decision.ready, "it has not what it was said to have"
            assert {lease.shard for lease in decision.leases} == set(decision.kept)
            assert had == decision.leases[-1].shard

    @rule(pick=st.integers(0, 50))
    def started(self, pick: int) -> None:
        starting = [s.id for s in self.composer.shards() if s.status == "starting"]
        if starting:
            self.is_ready(starting[pick % len(starting)])

    def is_ready(self, shard: ShardId) -> None:
        whole = self.composer.started(shard, self.now)
        for waits in self.starting.values():
            waits.discard(shard)
        assert set(whole) == {request for request, waits in self.starting.items() if not waits}
        for request in whole:
            del self.starting[request]

    @rule(pick=st.integers(0, 50))
    def start_failed(self, pick: int) -> None:
        starting = [s.id for s in self.composer.shards() if s.status == "starting"]
        if starting:
            shard = starting[pick % len(starting)]
            doomed = {request for request, waits in self.starting.items() if shard in waits}
            self.performed(self.composer.start_failed(shard, "it crashed", self.now))
            assert not doomed & set(self.starting), "a composition outlived a shard that it waited for"
            del self.alive[shard]

    @rule(pick=st.integers(0, 50))
    def crash(self, pick: int) -> None:
        if self.alive:
            self.is_gone(sorted(self.alive)[pick % len(self.alive)])

    @rule()
    def stopped_ones_exit(self) -> None:
        for shard in [shard for shard, told in self.alive.items() if told]:
            self.is_gone(shard)

    def is_gone(self, shard: ShardId) -> None:
        loss = self.composer.exited(shard, self.now)
        assert loss.expected is self.alive[shard]
        self.performed(loss.effects)
        del self.alive[shard]
        assert all(lease.shard != shard for s in self.composer.sessions() for lease in s.leases + s.requests)

    @rule(session=SESSIONS)
    def end_session(self, session: SessionNumber) -> None:
        self.performed(self.composer.end_session(session, self.now))
        assert session not in {s.number for s in self.composer.sessions()}
        assert session not in self.queued.values()

    @rule(pick=st.integers(0, 50))
    def release_request(self, pick: int) -> None:
        leases = [lease.shard for s in self.composer.sessions() for lease in s.requests]
        if leases:
            self.performed(self.composer.release_request(leases[pick % len(leases)], self.now))

    @rule(pick=st.integers(0, 50))
    def cancel(self, pick: int) -> None:
        known = sorted(self.needs)
        if known:
            request = known[-1 - pick % len(known)]
            self.queued.pop(request, None)
            self.performed(self.composer.cancel(request, self.now))
            assert request not in self.starting and request not in self.composer.queued()
            assert not any(s.request == request and s.held for s in self.composer.shards())

    @rule(pick=st.integers(0, 50))
    def drain(self, pick: int) -> None:
        if self.alive:
            self.performed(self.composer.drain(sorted(self.alive)[pick % len(self.alive)], self.now))

    @rule(name=st.sampled_from(NAMES))
    def refill(self, name: str) -> None:
        if name in self.components:
            launch = self.composer.launch(ComponentName(name), self.now, "asked for")
            if isinstance(launch, Launch):
                self.launched(launch)

    @rule(pick=st.integers(0, 50))
    def evict(self, pick: int) -> None:
        if self.alive:
            self.performed(self.composer.evict(sorted(self.alive)[pick % len(self.alive)], self.now, "asked for"))

    @rule(step=st.sampled_from((0.5, 1.0, 5.0)))
    def expire(self, step: float) -> None:
        self.now += step
        self.performed(self.composer.expire(self.now))

    @rule()
    def poll(self) -> None:
        for decision in self.composer.poll(self.now):
            self.decided(decision)

    @precondition(lambda self: hasattr(self, "composer"))
    @invariant()
    def holds(self) -> None:
        self.composer.check()
        assert {s.id for s in self.composer.shards()} == set(self.alive)
        assert {s.id for s in self.composer.shards() if s.stopping} == {s for s, told in self.alive.items() if told}
        assert set(self.composer.queued()) == set(self.queued)

    def teardown(self) -> None:
        if not hasattr(self, "composer"):
            return
        self.nobody_waits_for_ever()
        self.nothing_leaks()

    def nobody_waits_for_ever(self) -> None:
        """Sessions end only when nothing of theirs is queued: even so, every request is answered."""
        for _ in range(3 * (len(self.queued) + len(self.composer.sessions()) + len(self.alive)) + 3):
            for shard in [s.id for s in self.composer.shards() if s.status == "starting"]:
                self.is_ready(shard)
            self.stopped_ones_exit()
            self.poll()
            self.holds()
            if not self.queued:
                return
            for session in {s.number for s in self.composer.sessions()} - set(self.queued.values()):
                self.end_session(session)
        raise AssertionError(f"still queued: {self.queued}")

    def nothing_leaks(self) -> None:
        for session in [s.number for s in self.composer.sessions()]:
            self.end_session(session)
        self.now += 1000.0
        self.performed(self.composer.expire(self.now))
        assert not self.composer.sessions()
        assert not any(s.sessions or s.key is not None for s in self.composer.shards() if not s.stopping)
        for shard in tuple(self.alive):
            self.performed(self.composer.evict(shard, self.now, "asked for"))
        self.stopped_ones_exit()
        assert not self.alive and not self.composer.shards()
        spent = self.composer.reserved()
        assert (spent.cpu, spent.memory_bytes) == (0, 0), f"leaked {spent}"


TestNode = Node.TestCase
TestNode.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


# -- the same machine must find planted bugs -------------------------------------------------------------------------


class ForgetsToRelease(Capacity):
    def release(self, shard: ShardId) -> None:
        pass


class ForgetsALease(Composer):
    def end_session(self, session: SessionNumber, now: float) -> tuple[Effect, ...]:
        entry = self._roster.sessions.get(session)
        if entry is not None and len(entry.holds) > 1:
            entry.holds.popitem()
        return super().end_session(session, now)


class ForgetsWhoWaits(Composer):
    """Takes a start that failed for one that nobody waited for."""

    def start_failed(self, shard: ShardId, reason: str, now: float) -> tuple[Effect, ...]:
        self._compositions.clear()
        return super().start_failed(shard, reason, now)


class ReusesWhatItMustNot(Composer):
    def _retire(self, entry: Any, reason: str) -> tuple[Effect, ...]:
        self._roster.unkey(entry)
        return (ReturnToPool(entry.id, entry.spec.name, reason),)


class TakesForReadyWhatStarts(Composer):
    def has(self, session: SessionNumber, component: ComponentName, key: str | None, now: float) -> ShardId | None:
        return self.lease(session, component, key)


class ForgetsWhatItWouldTake(Composer):
    def would_take(self, session: SessionNumber, needs: Any) -> tuple[ShardId, ...] | None:
        found = super().would_take(session, needs)
        return found[1:] if found else found


class HoldsWhileItWaits(Composer):
    def compose(self, request: int, session: SessionNumber, needs: Any, now: float, deadline_s: Any = None) -> Decision:
        decision = super().compose(request, session, needs, now, deadline_s)
        if isinstance(decision, Queued):
            holder = self._roster.sessions.setdefault(session, SessionEntry(session, now, now))
            for need in needs:
                for entry in self._roster.free(need.component)[:1]:
                    if need not in holder.holds:
                        holder.holds[need] = self._roster.hold(entry, session, need, None)
        return decision


def machine_over(composer: type[Composer] = Composer, capacity: type[Capacity] = Capacity) -> type[Node]:
    return type("BrokenNode", (Node,), {"composer_class": composer, "capacity_class": capacity})


def must_fail(machine: type[Node]) -> None:
    with pytest.raises((AssertionError, InternalError, KeyError)):
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=2000,
                stateful_step_count=40,
                deadline=None,
                derandomize=True,
                database=None,
                phases=(Phase.generate,),
                suppress_health_check=list(HealthCheck),
            ),
        )


def test_a_capacity_that_is_never_given_back_is_found() -> None:
    must_fail(machine_over(capacity=ForgetsToRelease))


@pytest.mark.parametrize(
    "composer",
    [
        ForgetsALease, ForgetsWhoWaits, ReusesWhatItMustNot, HoldsWhileItWaits, TakesForReadyWhatStarts,
        ForgetsWhatItWouldTake,
    ],
)  # fmt: skip
def test_a_broken_composer_is_found(composer: type[Composer]) -> None:
    must_fail(machine_over(composer=composer))


def test_sessions_that_wait_for_each_other_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_composer, "deadlocked", lambda roster, queue: [])
    must_fail(machine_over())


def test_waiting_for_what_can_never_come_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_composer, "never_fits", lambda roster, session, needs: "")
    monkeypatch.setattr(_composer, "deadlocked", lambda roster, queue: [])
    must_fail(machine_over())
