"""Which link a call takes: bindings by component, session and key, and what happens when one is lost.

A binding is asked for once and then cached. When the shard behind it dies, calls in flight fail; for a component that
keeps state, every session that had used the lost shard is told exactly once (by its failed call, or by its next one)
before a fresh shard answers it: state is never silently fresh.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from shardwright.errors import ShardLost
from shardwright.guest._context import CallContext
from shardwright.model.endpoint import Peer
from shardwright.model.ids import ComponentName, SessionNumber, ShardId
from shardwright.model.scope import ScopeKind, StateKind
from shardwright.model.shard import ShardDefinition

WHY_PATIENCE_S = 0.5  # the node hears of an end within milliseconds
MANY_BINDINGS = 1024  # so many, and those that nobody needs are looked for
MANY_RETIRED = 256  # shards that were replaced and are remembered, for answers about them that come late


class Route(NamedTuple):
    """The name of a binding. ``shard`` is set to reach one shard in particular (an object behind a handle)."""

    component: ComponentName
    session: SessionNumber | None = None
    key: str | None = None
    shard: ShardId | None = None


class Led(Protocol):
    """Who was told the way of a session's calls."""

    def leads(self, session: int, line: Any, /) -> None: ...

    def forget(self) -> None: ...


class Routed(Protocol):
    """What a Router knows of a link."""

    @property
    def peer(self) -> Peer: ...

    @property
    def in_flight(self) -> int: ...

    def close(self) -> None: ...

    def retire(self) -> None:
        """Begin no further call; close once those in flight have their outcome."""


L = TypeVar("L", bound=Routed)


class Binder(Protocol[L]):
    """Who makes bindings: the node."""

    def bind(self, route: Route, context: CallContext, lost: Sequence[ShardId] = ()) -> Sequence[L]:
        """Links to the shards of this route, at least one. Blocks; raises CallError or NodeError.

        ``lost`` are shards of this route that the caller saw end; the node may not know yet.
        A route with a key and a shard asks to use that shard for one more session; then no link says that it may.
        """
        ...

    def release(self, route: Route, link: L) -> None:
        """A shard of request scope has served its request."""
        ...

    def why(self, peer: Peer) -> str:
        """How that shard ended, in words; empty when nobody can tell soon. Blocks for at most ``WHY_PATIENCE_S``."""
        ...


class _Binding(Generic[L]):
    __slots__ = ("debts", "doubts", "links", "lost", "stateful", "users")

    def __init__(self, stateful: bool) -> None:
        self.stateful = stateful
        self.links: list[L] = []
        self.lost: deque[ShardId] = deque(maxlen=8)
        self.users: set[SessionNumber] = set()
        self.debts: dict[SessionNumber, str] = {}  # sessions not yet told of a loss, and by which shard
        self.doubts: set[SessionNumber] = set()  # of whose losses the node alone knows

    @property
    def empty(self) -> bool:
        """Whether it says nothing of anybody but what was lost, which is news just for the next to bind."""
        return not (self.links or self.users or self.debts or self.doubts)


class _Once:
    """One binding in progress, and how many callers wait for it."""

    __slots__ = ("callers", "lock")

    def __init__(self) -> None:
        self.callers = 0
        self.lock = threading.Lock()


class Router(Generic[L]):
    """The bindings of one shard (or of the node's own client).

    ``per_session``: the links of a shard that serves sessions speak for one session each, for a callee lets a link speak
    just for the sessions that the caller served when it was made.
    """

    def __init__(self, binder: Binder[L], *, per_session: bool = False) -> None:
        self.binder = binder
        self._per_session = per_session
        self._mutex = threading.Lock()
        self._bindings: dict[Route, _Binding[L]] = {}
        self._binding_now: dict[Route, _Once] = {}
        self._led: dict[int, Led] = {}  # whoever knows a way without asking, by identity
        self._retired: deque[ShardId] = deque(maxlen=MANY_RETIRED)

    def route(self, definition: ShardDefinition, session: SessionNumber, key: str | None) -> Route:
        """The route of a call to that component."""
        kind = definition.scope.kind
        own = session if self._per_session else None
        if kind is ScopeKind.SHARED:
            return Route(definition.component, session=own)
        if kind is ScopeKind.KEY:
            return Route(definition.component, session=own, key=key)
        return Route(definition.component, session=session)

    def object_route(self, component: ComponentName, session: SessionNumber, shard: ShardId) -> Route:
        """The route of a call to an object behind a handle."""
        return Route(component, session=session if self._per_session else None, shard=shard)

    def link(self, definition: ShardDefinition, route: Route, context: CallContext) -> L:
        """The link to use now, bound if need be (then this blocks). Raises ShardLost for a loss not yet told."""
        if definition.scope.kind is ScopeKind.REQUEST and route.shard is None:
            return self.binder.bind(route, context)[0]
        link = self.known(definition, route, context)
        if link is not None:
            return link
        with self._mutex:
            once = self._binding_now.setdefault(route, _Once())
            once.callers += 1
        try:
            with once.lock:  # the first caller binds, the others wait for it and find it done
                while True:
                    link = self.known(definition, route, context)
                    if link is not None:
                        return link
                    asked, lost = self.question(route, context.session)
                    links = self.binder.bind(asked, context, lost)
                    link = self.bound(definition, route, context, links)
                    if link is not None:
                        return link
        finally:
            with self._mutex:
                once.callers -= 1
                if not once.callers:
                    del self._binding_now[route]

    def question(self, route: Route, session: SessionNumber) -> tuple[Route, tuple[ShardId, ...]]:
        """What to ask the node for, and which shards of it were seen to end. The answer settles the session's doubts."""
        binding = self._bindings.get(route)
        if binding is not None:
            with self._mutex:
                binding.doubts.discard(session)
        lost = tuple(binding.lost) if binding is not None else ()
        return route._replace(shard=route.shard or self._keyed(route)), lost

    def _keyed(self, route: Route) -> ShardId | None:
        """The shard that other sessions use for that key: the node need only be told of one more."""
        binding = self._bindings.get(route)
        links = binding.links if binding is not None and route.key is not None else ()
        return links[0].peer.shard if links else None

    def bound(self, definition: ShardDefinition, route: Route, context: CallContext, links: Sequence[L]) -> L | None:
        """Enter what the node answered; None when the shard of which it told was lost or replaced meanwhile."""
        with self._mutex:
            # it may have been replaced between the node's answer and now, and whoever said so found no link yet
            late = [link for link in links if link.peer.shard in self._retired]
            if late:
                links = [link for link in links if link not in late]
            if route not in self._bindings and len(self._bindings) >= MANY_BINDINGS:
                self._prune()
            if route in self._bindings:  # proxies may be led by what it was
                self._mislead()
            binding = self._bindings.setdefault(route, _Binding(definition.state is not StateKind.NONE))
            if links and route.key is not None:  # the one that others used is theirs no longer
                for old in list(binding.links):
                    self._lose(binding, old)
            # the node may have offered one of them of its own accord meanwhile: one link for each shard
            there = {link.peer.shard: link for link in binding.links}
            spare = [link for link in links if there.setdefault(link.peer.shard, link) is not link]
            binding.links = list(there.values())
            found = there[links[0].peer.shard] if links else next(iter(there.values()), None)
            if found is not None:
                binding.users.add(context.session)
        for link in (*spare, *late):
            link.close()
        return found

    def known(self, definition: ShardDefinition, route: Route, context: CallContext) -> L | None:
        """The cached link, or None. Raises ShardLost for a loss not yet told."""
        binding = self._bindings.get(route)
        if binding is None:
            return None
        with self._mutex:
            lost = binding.debts.pop(context.session, None)
            if lost is not None:
                raise ShardLost(
                    f"{lost} is gone, and with it the state that this session had in {definition.component}",
                    outcome="not started",
                    remedy="the next call starts from fresh state",
                )
            if not binding.links or context.session in binding.doubts:
                return None
            if route.key is not None and context.session not in binding.users:
                return None  # the node must know that this session uses it, or it may end under its hands
            binding.users.add(context.session)
            links = binding.links
            return links[0] if len(links) == 1 else min(links, key=lambda link: link.in_flight)

    def lead(
        self, led: Led, definition: ShardDefinition, route: Route, session: SessionNumber, link: L, line: Any
    ) -> None:
        """Tell the way of that session's calls, if it is the only one; until ``led`` is told to forget it, that is what
        ``known`` would answer."""
        if definition.scope.kind is ScopeKind.REQUEST or route.shard is not None or route.key is not None:
            return
        with self._mutex:
            binding = self._bindings.get(route)
            if (
                binding is not None
                and len(binding.links) == 1
                and binding.links[0] is link
                and session not in binding.debts
                and session not in binding.doubts
                and session in binding.users
            ):
                if len(self._led) >= MANY_BINDINGS and id(led) not in self._led:
                    self._mislead()
                self._led[id(led)] = led
                led.leads(session, line)

    def _mislead(self) -> None:
        """Something changes: whoever knows a way is to ask again. Under the mutex, with what has changed."""
        for led in self._led.values():
            led.forget()
        self._led.clear()

    def link_to(self, shard: ShardId) -> L | None:
        """An open link to that shard, if there is one."""
        with self._mutex:
            for binding in self._bindings.values():
                for link in binding.links:
                    if link.peer.shard == shard:
                        return link
        return None

    def offered(self, route: Route, link: L) -> None:
        """The node offers a further shard of a route that is bound already."""
        with self._mutex:
            binding = self._bindings.get(route)
            if (
                binding is not None
                and link.peer.shard not in self._retired
                and all(known.peer.shard != link.peer.shard for known in binding.links)
            ):
                binding.links.append(link)
                self._mislead()
                return
        link.close()

    def lost(self, link: L) -> None:
        """The shard behind a link is gone."""
        with self._mutex:
            self._mislead()
            for route, binding in list(self._bindings.items()):
                if link not in binding.links:
                    continue
                used = bool(binding.users)
                self._lose(binding, link)
                if not used and binding.empty:  # nobody is about to ask for another
                    del self._bindings[route]

    @staticmethod
    def _lose(binding: _Binding[L], link: L) -> None:
        binding.links = [other for other in binding.links if other is not link]
        binding.lost.append(link.peer.shard)
        if binding.stateful:
            binding.debts.update(dict.fromkeys(binding.users, str(link.peer.shard)))
        binding.users.clear()

    def retire(self, shard: ShardId, *, lost: bool) -> set[SessionNumber]:
        """That shard is replaced: the next calls go elsewhere. ``lost``: after the sessions that used it were told; these
        sessions.
        """
        links: list[L] = []
        owed: set[SessionNumber] = set()
        with self._mutex:
            self._mislead()
            self._retired.append(shard)
            for binding in self._bindings.values():
                mine = [link for link in binding.links if link.peer.shard == shard]
                if not mine:
                    continue
                links += mine
                binding.links = [link for link in binding.links if link.peer.shard != shard]
                if lost and binding.stateful:
                    binding.debts.update(dict.fromkeys(binding.users, str(shard)))
                    owed |= binding.users
                if not binding.links:
                    binding.users.clear()
        for link in links:
            link.retire()
        return owed

    def doubt(self, component: ComponentName, sessions: Iterable[SessionNumber]) -> None:
        """Of these sessions the node may know a loss: it is to be asked before their next call of that shared component."""
        with self._mutex:
            self._mislead()
            self._bindings.setdefault(Route(component), _Binding(True)).doubts.update(sessions)

    def told(self, route: Route, session: SessionNumber) -> None:
        """A call of that session in flight has failed: it knows of the loss."""
        with self._mutex:
            binding = self._bindings.get(route)
            if binding is not None:
                binding.debts.pop(session, None)

    def request_done(self, definition: ShardDefinition, route: Route, link: L) -> None:
        if definition.scope.kind is ScopeKind.REQUEST and route.shard is None:
            self.binder.release(route, link)

    def forget(self, route: Route) -> list[L]:
        """Drop a binding; returns its links."""
        with self._mutex:
            self._mislead()
            binding = self._bindings.pop(route, None)
            return binding.links if binding is not None else []

    def session_ended(self, session: SessionNumber) -> list[L]:
        """Forget a session; returns links that nobody here will use again."""
        unused: list[L] = []
        with self._mutex:
            self._mislead()
            for route in [r for r in self._bindings if r.session == session]:
                unused.extend(self._bindings.pop(route).links)
            for binding in self._bindings.values():
                binding.users.discard(session)
                binding.debts.pop(session, None)
                binding.doubts.discard(session)
            self._prune()
        return unused

    def _prune(self) -> None:
        self._mislead()
        for route in [route for route, binding in self._bindings.items() if binding.empty]:
            del self._bindings[route]
