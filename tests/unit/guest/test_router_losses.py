"""The router: one binding for all callers of a route, and each session is told of a loss exactly once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from shardwright.errors import ShardLost
from shardwright.guest import CallContext, Link, Route, Router
from shardwright.model.ids import ComponentName, SessionNumber, ShardId
from shardwright.model.limits import Limits
from shardwright.model.scope import Scope, ScopeKind, Start, StateKind
from shardwright.model.shard import CodeSegment, ShardDefinition

BANK = ComponentName("bank")


def definition(kind: ScopeKind = ScopeKind.SHARED, state: StateKind = StateKind.MEMORY) -> ShardDefinition:
    return ShardDefinition(
        component=BANK, code=CodeSegment("bank", ("bank",)), entry_points=(), scope=Scope(kind, "who"), state=state,
        limits=Limits(), isolation="auto", start=Start.AUTO, depends_on=(),
    )  # fmt: skip


class Node:
    """The binder of these tests: makes real links, counts how often it was asked."""

    def __init__(self, wires: Any, each: int = 1) -> None:
        self.wires = wires
        self.each = each
        self.asked: list[Route] = []
        self.released: list[Link] = []
        self.before: Callable[[], None] = lambda: None
        self.made = 0

    def bind(self, route: Route, context: CallContext, lost: Sequence[str] = ()) -> list[Link]:
        self.asked.append(route)
        self.before()
        links = []
        for _ in range(self.each):
            self.made += 1
            links.append(self.wires.link(f"bank-{self.made:08x}")[0])
        return links

    def why(self, peer: object) -> str:
        return "killed by signal 9"

    def release(self, route: Route, link: Link) -> None:
        self.released.append(link)


def context(session: int) -> CallContext:
    return CallContext(session=SessionNumber(session))


def test_many_callers_of_one_route_bind_once(wires: Any) -> None:
    node = Node(wires)
    router, about = Router(node), definition()
    asked, go = threading.Event(), threading.Event()
    node.before = lambda: (asked.set(), go.wait(10))[0]  # type: ignore[assignment, return-value]
    found: list[Link] = []
    route = router.route(about, SessionNumber(1), None)
    threads = [
        threading.Thread(target=lambda n=n: found.append(router.link(about, route, context(n)))) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    assert asked.wait(10)
    go.set()
    for thread in threads:
        thread.join(10)
    assert len(node.asked) == 1 and len(found) == 8 and len(set(map(id, found))) == 1


def test_each_session_that_used_a_lost_shard_is_told_exactly_once(wires: Any) -> None:
    node = Node(wires)
    router, about = Router(node), definition()
    route = router.route(about, SessionNumber(1), None)
    first = router.link(about, route, context(1))
    for session in (1, 2, 3):
        assert router.known(about, route, context(session)) is first
    router.lost(first)
    router.told(route, SessionNumber(3))  # by its failed call
    told = []
    for session in (1, 2, 3, 4, 1, 2, 3, 4):
        try:
            router.link(about, route, context(session))
        except ShardLost as lost:
            assert lost.outcome == "not started" and "bank-00000001" in str(lost)
            told.append(session)
    assert told == [1, 2]
    assert len(node.asked) == 2


def test_a_loss_without_state_is_told_to_nobody(wires: Any) -> None:
    node = Node(wires)
    router, about = Router(node), definition(state=StateKind.NONE)
    route = router.route(about, SessionNumber(1), None)
    router.lost(router.link(about, route, context(1)))
    assert router.link(about, route, context(1)).peer.shard == "bank-00000002"


def test_the_loss_of_one_instance_leaves_the_others(wires: Any) -> None:
    node = Node(wires, each=3)
    router, about = Router(node), definition(state=StateKind.NONE)
    route = router.route(about, SessionNumber(1), None)
    first = router.link(about, route, context(1))
    router.lost(first)
    second = router.link(about, route, context(1))
    assert second is not first and len(node.asked) == 1


def test_sessions_and_keys_have_shards_of_their_own(wires: Any) -> None:
    node = Node(wires)
    router = Router(node)
    for kind in (ScopeKind.SESSION, ScopeKind.KEY):
        about = definition(kind)
        routes = [router.route(about, SessionNumber(n), str(n)) for n in (1, 2)]
        links = [router.link(about, route, context(n)) for n, route in zip((1, 2), routes, strict=True)]
        assert links[0] is not links[1]
        assert router.link(about, routes[0], context(1)) is links[0]


def test_a_request_binds_each_time_and_gives_back(wires: Any) -> None:
    node = Node(wires)
    router, about = Router(node), definition(ScopeKind.REQUEST, StateKind.NONE)
    route = router.route(about, SessionNumber(1), None)
    one, two = router.link(about, route, context(1)), router.link(about, route, context(1))
    assert one is not two
    router.request_done(about, route, one)
    assert node.released == [one]


def test_the_end_of_a_session_forgets_what_was_its_own(wires: Any) -> None:
    node = Node(wires)
    router, about = Router(node), definition(ScopeKind.SESSION)
    route = router.route(about, SessionNumber(1), None)
    link = router.link(about, route, context(1))
    shared = router.link(definition(), router.route(definition(), SessionNumber(1), None), context(1))
    assert link in router.session_ended(SessionNumber(1))
    router.lost(shared)
    router.known(definition(), Route(BANK), context(1))  # no debt to a session that is over
    assert router.link_to(shared.peer.shard) is None


def test_an_offer_for_what_nobody_bound_is_closed(wires: Any) -> None:
    router = Router(Node(wires))
    link, _ = wires.link()
    router.offered(Route(BANK), link)
    assert link.closed


def test_who_cannot_bind_leaves_no_trace(wires: Any) -> None:
    node = Node(wires)
    router, about = Router(node), definition()

    def refuse() -> None:
        raise ShardLost("refused")

    node.before = refuse
    with pytest.raises(ShardLost):
        router.link(about, Route(BANK), context(1))
    node.before = lambda: None
    assert router.link(about, Route(BANK), context(1))


def test_nothing_remains_of_bindings_that_nobody_needs(wires: Any) -> None:
    node = Node(wires)
    router, about = Router(node), definition(ScopeKind.KEY)
    for number in range(5):
        route = router.route(about, SessionNumber(1), f"'{number}'")
        link = router.link(about, route, context(1))
        assert router._binding_now == {}
        router.lost(link)
    assert len(router._bindings) == 5  # the session is to be told of each loss
    router.session_ended(SessionNumber(1))
    assert router._bindings == {}
    link = router.link(about, router.route(about, SessionNumber(2), "'x'"), context(2))
    router.session_ended(SessionNumber(2))
    assert len(router._bindings) == 1  # the shard may live on, and serve others
    router.lost(link)
    assert router._bindings == {}


def test_a_binding_that_fails_leaves_nothing_behind(wires: Any) -> None:
    node = Node(wires)
    node.before = lambda: (_ for _ in ()).throw(ShardLost("no"))
    router, about = Router(node), definition()
    with pytest.raises(ShardLost):
        router.link(about, router.route(about, SessionNumber(1), None), context(1))
    assert router._binding_now == {} and router._bindings == {}


def test_a_shard_that_was_replaced_before_its_link_was_entered_is_not_used(wires: Any) -> None:
    node = Node(wires)
    router, about = Router(node), definition()
    route = router.route(about, SessionNumber(1), None)

    def replaced() -> None:
        if node.made == 0:  # the node has answered, and then says that it is replaced: the answer is read later
            router.retire(ShardId("bank-00000001"), lost=False)

    node.before = replaced
    found = router.link(about, route, context(1))
    assert (found.peer.shard, len(node.asked)) == ("bank-00000002", 2)
    late = wires.link("bank-00000001")[0]
    router.offered(route, late)
    assert router.link_to(ShardId("bank-00000001")) is None
    assert late.closed
