"""Two hundred sessions at once over a graph with shared, keyed and session shards and far too few slots."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest

from shardwright.composition import Composer, Decision, Granted, Need, Queued, Refused, Stop, _composer, needs_of
from shardwright.model.ids import ComponentName, SessionNumber, ShardId
from shardwright.model.limits import Limits, Resources
from shardwright.model.manifest import Component, Scale
from shardwright.model.scope import Scope, ScopeKind, Start, StateKind
from shardwright.model.shard import CodeSegment, PlanEdge, ShardDefinition, ShardPlan
from shardwright.placement import Capacity

VISITORS = 200
WEB, INVENTORY, PHYSICS, STATE = map(ComponentName, ("web", "inventory", "physics", "state"))


def arena() -> tuple[ShardPlan, dict[str, Component]]:
    """web and inventory shared, physics by world, state by session; a cycle web -> physics -> inventory -> web."""
    made = [
        Component(WEB, "web", Limits(guarantee=Resources(cpu=0.5)), scale=Scale(1, 2)),
        Component(INVENTORY, "inventory", Limits(guarantee=Resources(cpu=0.5))),
        Component(PHYSICS, "physics", Limits(guarantee=Resources(cpu=1.0)), Scope(ScopeKind.KEY, "world")),
        Component(STATE, "state", Limits(guarantee=Resources(cpu=0.25)), Scope(ScopeKind.SESSION)),
    ]
    definitions = tuple(
        ShardDefinition(
            c.name, CodeSegment(c.code, (c.code,)), (), c.scope, StateKind.NONE, c.limits, "auto", Start.AUTO, ()
        )
        for c in made
    )
    wires = ((WEB, STATE), (WEB, PHYSICS), (PHYSICS, INVENTORY), (INVENTORY, WEB))
    edges = tuple(PlanEdge(caller, callee, "calls", True, True) for caller, callee in wires)
    return ShardPlan("arena", "/", "", definitions, edges, (), (), (), ()), {c.name: c for c in made}


class Crowd:
    """A node with an event loop of its own: performs decisions, ends sessions that have all they came for."""

    def __init__(self, cpu: float) -> None:
        self.plan, components = arena()
        ids = itertools.count()
        self.composer = Composer(
            self.plan,
            components,
            Capacity(Resources(cpu=cpu)),
            lambda component: ShardId(f"{component}-{next(ids):08x}"),
        )
        self.requests = itertools.count(1)
        self.now = 0.0
        self.granted: list[SessionNumber] = []
        self.refused: list[SessionNumber] = []
        self.steps: dict[SessionNumber, list[Callable[[SessionNumber], Decision]]] = {}

    def ask(self, session: SessionNumber) -> None:
        """Take the session's next step; with none left it has all, and ends."""
        if self.steps[session]:
            self.hear(self.steps[session].pop(0)(session))
        else:
            self.granted.append(session)
            self.end(session)

    def end(self, session: SessionNumber) -> None:
        del self.steps[session]
        self.perform(self.composer.end_session(session, self.now))

    def hear(self, decision: Decision) -> None:
        self.composer.check()
        if isinstance(decision, Refused):
            assert decision.reason and decision.remedy
            self.refused.append(decision.session)
            self.end(decision.session)
        elif isinstance(decision, Queued):
            self.perform(decision.effects)

    def perform(self, effects: tuple[object, ...]) -> None:
        self.stopped = getattr(self, "stopped", []) + [e.shard for e in effects if isinstance(e, Stop)]

    def round(self, dice: random.Random) -> bool:
        """Everything that is under way happens; then one session in the middle of its life goes on."""
        self.now += 1.0
        for shard in [s.id for s in self.composer.shards() if s.status == "starting"]:
            self.composer.started(shard, self.now)
        stopped, self.stopped = getattr(self, "stopped", []), []
        for shard in stopped:
            self.composer.exited(shard, self.now)
        for decision in self.composer.poll(self.now):
            self.hear(decision)
        waiting = set(self.composer.queued())
        going = [s for s in sorted(self.steps) if self.asked.get(s) not in waiting]
        for session in dice.sample(going, min(len(going), 7)):
            self.ask(session)
        return bool(going or stopped)

    def run(self, steps: Callable[[SessionNumber], list[Callable[[SessionNumber], Decision]]], seed: int) -> None:
        dice = random.Random(seed)
        self.asked: dict[SessionNumber, int] = {}
        for number in range(1, VISITORS + 1):
            self.steps[SessionNumber(number)] = steps(SessionNumber(number))
        for session in tuple(self.steps):
            self.ask(session)
        for _ in range(40 * VISITORS):
            if not self.steps:
                break
            if not self.round(dice) and not self.stopped:
                break  # nothing is under way, and nobody can go on
        assert not self.steps, f"{len(self.steps)} sessions are stuck"

    def compose(self, needs: tuple[Need, ...], patience_s: float | None) -> Callable[[SessionNumber], Decision]:
        def step(session: SessionNumber) -> Decision:
            self.asked[session] = request = next(self.requests)
            deadline = None if patience_s is None else self.now + patience_s
            return self.composer.compose(request, session, needs, self.now, deadline)

        return step

    def acquire(self, world: str) -> Callable[[SessionNumber], Decision]:
        def step(session: SessionNumber) -> Decision:
            self.asked[session] = request = next(self.requests)
            return self.composer.acquire(request, session, PHYSICS, world, self.now)

        return step

    def left_clean(self) -> bool:
        for shard in [s.id for s in self.composer.shards()]:
            self.composer.exited(shard, self.now)
        return not self.composer.sessions() and not self.composer.queued() and self.composer.reserved().cpu == 0


def world_of(session: SessionNumber) -> str:
    return f"world-{session % 10}"


@pytest.mark.parametrize("seed", range(3))
def test_all_at_once_each_gets_everything_when_they_can_wait(
    seed: int, record_exercised: Callable[[str, int], None]
) -> None:
    crowd = Crowd(cpu=6.0)
    crowd.run(lambda s: [crowd.compose(needs_of(crowd.plan, [WEB], {PHYSICS: world_of(s)}), None)], seed)
    assert (len(crowd.granted), len(crowd.refused)) == (VISITORS, 0)
    assert crowd.left_clean()
    record_exercised("sessions of a crowd that were granted all their shards", len(crowd.granted))
    record_exercised("sessions of a crowd that were refused", len(crowd.refused))


@pytest.mark.parametrize("seed", range(3))
def test_all_at_once_each_is_answered_when_they_cannot_wait_long(
    seed: int, record_exercised: Callable[[str, int], None]
) -> None:
    crowd = Crowd(cpu=6.0)
    crowd.run(lambda s: [crowd.compose(needs_of(crowd.plan, [WEB], {PHYSICS: world_of(s)}), 5.0)], seed)
    assert sorted(crowd.granted + crowd.refused) == list(range(1, VISITORS + 1))
    assert crowd.granted and crowd.refused, "too few slots for all, enough for some"
    assert crowd.left_clean()
    record_exercised("sessions of a crowd that were granted all their shards", len(crowd.granted))
    record_exercised("sessions of a crowd that were refused", len(crowd.refused))


@pytest.mark.parametrize("seed", range(3))
def test_worlds_entered_late_cannot_deadlock(seed: int, record_exercised: Callable[[str, int], None]) -> None:
    """Each session holds its state while it waits for two worlds, one after the other: the classical recipe."""
    crowd = Crowd(cpu=4.0)
    crowd.run(late_steps(crowd), seed)
    assert sorted(crowd.granted + crowd.refused) == list(range(1, VISITORS + 1))
    assert len(crowd.granted) >= VISITORS // 10
    assert crowd.left_clean()
    record_exercised("sessions of a crowd that were granted all their shards", len(crowd.granted))
    record_exercised("sessions of a crowd that were refused", len(crowd.refused))


def late_steps(crowd: Crowd) -> Callable[[SessionNumber], list[Callable[[SessionNumber], Decision]]]:
    return lambda s: [
        crowd.compose(needs_of(crowd.plan, [STATE]), None),
        crowd.acquire(world_of(s)),
        crowd.acquire(world_of(SessionNumber(s * 7 + 3))),
    ]


def test_without_the_search_for_deadlocks_the_same_crowd_gets_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_composer, "deadlocked", lambda roster, queue: [])
    crowd = Crowd(cpu=4.0)
    with pytest.raises(AssertionError, match="stuck"):
        crowd.run(late_steps(crowd), 1)


def test_taking_one_shard_after_the_other_gets_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why a composition is taken whole: hold and wait, as a naive composer would, and nobody finishes."""
    monkeypatch.setattr(_composer, "deadlocked", lambda roster, queue: [])
    crowd = Crowd(cpu=4.0)

    def piecemeal(session: SessionNumber) -> list[Callable[[SessionNumber], Decision]]:
        needs = needs_of(crowd.plan, [WEB], {PHYSICS: world_of(session)})
        return [crowd.compose((need,), None) for need in reversed(needs)]

    with pytest.raises(AssertionError, match="stuck"):
        crowd.run(piecemeal, 1)


def test_a_crowd_of_small_ones_does_not_starve_a_big_one() -> None:
    assert served_after(patience=16) <= 60


def test_with_endless_patience_the_big_one_starves() -> None:
    assert served_after(patience=10**9) == 500


def served_after(patience: int) -> int:
    """After how many small sessions, two of which always overlap, one that needs the whole node is served."""
    small = Component(ComponentName("small"), "small", Limits(guarantee=Resources(cpu=1.0)), Scope(ScopeKind.SESSION))
    big = Component(ComponentName("big"), "big", Limits(guarantee=Resources(cpu=4.0)), Scope(ScopeKind.SESSION))
    definitions = tuple(
        ShardDefinition(
            c.name, CodeSegment(c.code, (c.code,)), (), c.scope, StateKind.NONE, c.limits, "auto", Start.AUTO, ()
        )
        for c in (small, big)
    )
    plan = ShardPlan("app", "/", "", definitions, (), (), (), (), ())
    ids = itertools.count()
    composer = Composer(
        plan,
        {"small": small, "big": big},
        Capacity(Resources(cpu=4.0)),
        lambda component: ShardId(f"{component}-{next(ids)}"),
        patience=patience,
    )
    requests = itertools.count(10)
    running: list[SessionNumber] = []
    for number in range(500):
        session = SessionNumber(number + 10)
        decision = composer.compose(next(requests), session, (Need(small.name),), float(number))
        if isinstance(decision, Granted):
            running.append(session)
            composer.started(decision.leases[0].shard, float(number))
        if number == 2:
            assert isinstance(composer.compose(1, SessionNumber(1), (Need(big.name),), float(number)), Queued)
        if len(running) > 2 or (number > 2 and running and isinstance(decision, Queued)):
            for effect in composer.end_session(running.pop(0), float(number)):
                if isinstance(effect, Stop):
                    composer.exited(effect.shard, float(number))
        for late in composer.poll(float(number)):
            if isinstance(late, Granted) and late.request == 1:
                return number
            if isinstance(late, Granted):
                running.append(late.session)
                composer.started(late.leases[0].shard, float(number))
    return 500
