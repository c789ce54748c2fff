"""A node's composer to tell stories with: ids count up, shards start and end when the story says so."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from shardwright.composition import Composer, Decision, Effect, Granted, Need, Queued, Refused, needs_of
from shardwright.model.ids import ComponentName, SessionNumber, ShardId
from shardwright.model.limits import Limits, Resources
from shardwright.model.manifest import Component, Scale, UsageModel, Warm
from shardwright.model.scope import Scope, ScopeKind, Start, StateKind
from shardwright.model.shard import CodeSegment, PlanEdge, ShardDefinition, ShardPlan
from shardwright.placement import Capacity


class Story:
    """Short words for what a node does. ``now`` is moved by the story."""

    def __init__(self, cpu: float, components: Iterable[Component], edges: Iterable[str] = (), **options: Any) -> None:
        made = tuple(components)
        definitions = tuple(
            ShardDefinition(
                c.name, CodeSegment(c.code, (c.code,)), (), c.scope, StateKind.NONE, c.limits, "auto", Start.AUTO, ()
            )
            for c in made
        )
        pairs = [edge.split(">") for edge in edges]
        wires = tuple(PlanEdge(ComponentName(a), ComponentName(b), "calls", True, True) for a, b in pairs)
        self.plan = ShardPlan("app", "/", "", definitions, wires, (), (), (), ())
        counter = itertools.count(1)
        self.composer = Composer(
            self.plan,
            {c.name: c for c in made if c.name != "main"},
            Capacity(Resources(cpu=cpu)),
            lambda component: ShardId(f"{component}-{next(counter)}"),
            **options,
        )
        self.requests = itertools.count(1)
        self.now = 0.0

    def compose(
        self, session: int, *entries: str, keys: dict[str, str] | None = None, deadline_s: float | None = None
    ) -> Decision:
        return self.take(session, *needs_of(self.plan, entries, keys), deadline_s=deadline_s)

    def take(self, session: int, *needs: Need, deadline_s: float | None = None) -> Decision:
        decision = self.composer.compose(next(self.requests), SessionNumber(session), needs, self.now, deadline_s)
        self.composer.check()
        return decision

    def acquire(self, session: int, component: str, key: str | None = None) -> Decision:
        decision = self.composer.acquire(
            next(self.requests), SessionNumber(session), ComponentName(component), key, self.now
        )
        self.composer.check()
        return decision

    def started(self, *shards: str) -> tuple[int, ...]:
        whole = [request for shard in shards for request in self.composer.started(ShardId(shard), self.now)]
        self.composer.check()
        return tuple(whole)

    def all_started(self) -> tuple[int, ...]:
        return self.started(*(s.id for s in self.composer.shards() if s.status == "starting"))

    def end(self, session: int) -> list[str]:
        effects = self.composer.end_session(SessionNumber(session), self.now)
        self.composer.check()
        return told(effects)

    def gone(self, *shards: str) -> None:
        for shard in shards:
            self.composer.exited(ShardId(shard), self.now)
            self.composer.check()

    def poll(self) -> list[str]:
        decisions = self.composer.poll(self.now)
        self.composer.check()
        return [outcome(decision) for decision in decisions]

    def holds(self, session: int) -> list[str]:
        for record in self.composer.sessions():
            if record.number == session:
                return [lease.shard for lease in (*record.leases, *record.requests)]
        return []

    def shards(self) -> dict[str, str]:
        return {s.id: "free" if s.free else s.status.value for s in self.composer.shards()}


def told(effects: Iterable[Effect]) -> list[str]:
    """``Stop web-1``, ``Abort 3``, ...: an effect in two words."""
    return [f"{type(e).__name__} {e.shard if not hasattr(e, 'request') else e.request}" for e in effects]


def outcome(decision: Decision) -> str:
    match decision:
        case Granted():
            return f"granted {decision.request}"
        case Queued():
            return " ".join([f"queued {decision.request}", *told(decision.effects)])
        case Refused():
            return f"refused {decision.request}"


def component(name: str, kind: str = "shared", cpu: float = 1.0, **rest: Any) -> Component:
    scope = Scope(ScopeKind(kind), "world" if kind == "key" else "")
    bounds = {
        "warm": Warm(*rest.pop("warm", (0, 16))),
        "scale": Scale(*rest.pop("scale", (1, 1))),
        "usage": UsageModel(max_instances=rest.pop("max_instances", None)),
    }
    return Component(ComponentName(name), name, Limits(guarantee=Resources(cpu=cpu)), scope, **bounds, **rest)


@pytest.fixture
def story() -> type[Story]:
    return Story


@pytest.fixture
def make() -> Callable[..., Component]:
    return component


@pytest.fixture
def word() -> Callable[[Decision], str]:
    return outcome
