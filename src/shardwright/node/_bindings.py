"""Bindings: who may reach which shard, and the links that carry their calls."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from shardwright.composition import ShardRecord, ShardStatus
from shardwright.contracts.clock import Clock
from shardwright.contracts.transport import Transport
from shardwright.errors import CallError, NodeError, NotPermitted, ShardLost, ShardwrightError
from shardwright.guest import Because, Bind, Bound, Doubt, Retire, Unsaid, Why
from shardwright.guest import Unbind as UnbindRequest
from shardwright.model.endpoint import Endpoint, Peer
from shardwright.model.ids import NO_SESSION, ComponentName, SessionNumber, ShardId
from shardwright.model.scope import ScopeKind
from shardwright.model.shard import GATEWAY_COMPONENT, ShardDefinition, ShardPlan
from shardwright.node._frames import TOO_MANY_PASSED, scarce
from shardwright.node._made_for import MadeFor
from shardwright.node._port import ShardPort
from shardwright.node._shards import Shards
from shardwright.node._wires import Wires

CLIENT = Peer(ComponentName("node"), ShardId("node"))
"""The identity under which the node's own process calls."""
MANY_REPLACEMENTS = 8  # of what somebody asked for, before he has it
MAX_PENDING_BINDS = 512  # of one shard at a time: its threads and coroutines ask one each


class Sessions(Protocol):
    """What is asked of the node's core."""

    def session_lives(self, number: SessionNumber) -> bool: ...

    def begin_own(self, shard: ShardId) -> SessionNumber:
        """A session in which that shard acts for itself."""

    def introduce(self, number: SessionNumber, shard: ShardId) -> None:
        """Tell the shard the session's name, if it does not know it yet."""

    def record(self, kind: str, reason: str, *, component: str = "", shard: str = "") -> None: ...

    def record_of(self, port: ShardPort, kind: str, reason: str) -> None:
        """Something that a shard caused, as often as it may."""


class Bindings:
    """All bindings of one node. Use from its event loop alone."""

    def __init__(self, plan: ShardPlan, wires: Wires, shards: Shards, sessions: Sessions, clock: Clock) -> None:
        self._plan = plan
        self._wires = wires
        self._shards = shards
        self._sessions = sessions
        self._clock = clock
        self._callers: dict[ComponentName, dict[ShardId, Peer]] = {}  # of shared components: who is bound to them
        self._own: dict[ShardId, SessionNumber] = {}  # sessions in which shards act for themselves
        self._requests: dict[ShardId, ShardId] = {}  # shards of request scope, and by whom they are used
        self._made_for = MadeFor(lambda component: shards.composer.most_shards(component) is not None)
        self._pending: Counter[ShardId] = Counter()  # bindings that shards wait for
        # by caller, callee, key and session: the shard whose loss a caller that was replaced with it can tell nobody
        self._owed: dict[tuple[ComponentName, ComponentName, str | None, SessionNumber], ShardId] = {}
        self._requests_made = itertools.count(1)
        self._settling: dict[ComponentName, asyncio.Future[None]] = {}  # of whose lost state it is asked whose it was
        self._unsaid: dict[int, tuple[ShardPort, asyncio.Future[Unsaid]]] = {}
        self._failure = ""
        self.offer_client: Callable[[Peer, Endpoint], None] | None = None
        self.client_calls: Callable[[ComponentName], None] = lambda component: None  # one that has a session each
        self.serve_from_client: Callable[[Peer, Endpoint], None] | None = None  # under test alone: else nobody calls it

    def __repr__(self) -> str:
        return f"<Bindings {sum(self._pending.values())} asked for>"

    def take_up(self, plan: ShardPlan) -> None:
        """From now on that plan says who may reach whom."""
        self._plan = plan

    async def retire(
        self, lost: ShardRecord, callers: Collection[ComponentName], timeout_s: float
    ) -> tuple[SessionNumber, ...]:
        """Shards that call it tell their sessions that state is gone, and use another; which sessions these are.

        ``callers`` are replaced as well: what takes their place tells instead, for which it asks here (``Doubt``).
        """
        asked: dict[int, tuple[ShardPort, asyncio.Future[Unsaid]]] = {}
        for port in list(self._shards.ports.values()):
            number = next(self._requests_made)
            asked[number] = (port, asyncio.get_running_loop().create_future())
            port.tell(Retire(lost.component, lost.id, True, number))
        self._unsaid |= asked
        settled = self._settling[lost.component] = asyncio.get_running_loop().create_future()
        try:
            if asked:
                await asyncio.wait([future for _, future in asked.values()], timeout=timeout_s)
            return self._owe(lost, callers, asked.values())
        finally:
            for number in asked:
                del self._unsaid[number]
            if self._settling.get(lost.component) is settled:
                del self._settling[lost.component]
            settled.set_result(None)

    def _owe(
        self,
        lost: ShardRecord,
        callers: Collection[ComponentName],
        answers: Iterable[tuple[ShardPort, asyncio.Future[Unsaid]]],
    ) -> tuple[SessionNumber, ...]:
        self._owed = {
            key: what for key, what in self._owed.items() if not key[3] or self._sessions.session_lives(key[3])
        }
        told: set[SessionNumber] = set()
        for port, future in answers:
            sessions = [SessionNumber(number) for number in future.result().sessions] if future.done() else []
            sessions = [number for number in sessions if not number or self._sessions.session_lives(number)]
            told.update(sessions)
            if port.component in callers:
                self._owed |= {(port.component, lost.component, lost.key, number): lost.id for number in sessions}
        return tuple(sorted(told))

    def on_unsaid(self, port: ShardPort, unsaid: Unsaid) -> None:
        asked, future = self._unsaid.get(unsaid.request, (None, None))
        if asked is port and future is not None and not future.done():
            future.set_result(unsaid)

    def fail(self, reason: str) -> None:
        """Nothing can be bound any more."""
        self._failure = reason

    async def bind(self, caller: Peer, bind: Bind) -> list[tuple[Peer, Endpoint]]:
        """Links to the shards of a route: the callee's identity and the caller's end of each channel.

        The callee has its end already. None when ``bind`` names a key and the shard that has it, which the session now
        holds as well. Raises NotPermitted, CompositionRefused, ShardLost.
        """
        if self._failure:
            raise NodeError(self._failure, remedy="start the node again")
        component = ComponentName(bind.component)
        if component == CLIENT.component and self.serve_from_client is not None:
            ours, theirs = self.between(caller, component).pair()
            self.serve_from_client(caller, theirs)
            return [(CLIENT, ours)]
        number = self._permitted(caller, bind)
        while (settled := self._settling.get(component)) is not None:
            await asyncio.shield(settled)  # others wait for it as well
        if lost := self._owed.pop((caller.component, component, bind.key, SessionNumber(bind.session)), None):
            raise ShardLost(
                f"{lost} was replaced, and with it went the state that this session had in {component}",
                outcome="not started",
            )
        definition = self._plan.definition(component)
        if caller is CLIENT and definition.scope.kind is ScopeKind.SESSION:
            self.client_calls(component)
        if bind.shard is not None and bind.key is None:
            shards = [ShardId(bind.shard)]
            record = self._shards.composer.shard(shards[0])
            lives = record is not None and not record.stopping and shards[0] in self._shards.ports
            if record is None or record.component != component or not lives:
                raise ShardLost(
                    f"{bind.shard} is gone, and with it the objects that lived there", outcome="not started"
                )
            if record.scope is ScopeKind.SESSION and number not in record.sessions:
                raise NotPermitted(f"{caller.shard} may not reach {bind.shard}", outcome="not started")
        else:
            shards = [await self._acquired(caller, number, definition, bind)]
            for _ in range(MANY_REPLACEMENTS):
                if definition.scope.kind is ScopeKind.REQUEST or not self._is_replaced(shards[0]):
                    break
                shards = [await self._acquired(caller, number, definition, bind)]
            here = caller.shard == CLIENT.shard or self._shards.composer.shard(caller.shard) is not None
            if shards[0] == bind.shard:  # the caller has a link to it, for other sessions
                self._sessions.introduce(number, shards[0])
                return []
            if definition.scope.kind is ScopeKind.REQUEST:
                self._requests[shards[0]] = caller.shard
                if not here:
                    self.release_request(shards[0])  # who asked for it ended meanwhile, and gives nothing back
                    raise NotPermitted(f"{caller.shard} has ended", outcome="not started")
            if definition.scope.kind is ScopeKind.SHARED:
                shards += [
                    record.id
                    for record in self._shards.composer.instances(component)
                    if record.status is ShardStatus.READY and record.id not in (*shards, *bind.lost)
                ]
                if here and bind.shard is None and caller.sessions is None:
                    self._callers.setdefault(component, {})[caller.shard] = caller
        narrow = definition.scope.kind is ScopeKind.SESSION
        sessions = frozenset({SessionNumber(bind.session)}) if narrow else caller.sessions
        asking = self._shards.ports.get(caller.shard)
        owed = tuple(key[3] for key in self._owed if key[:3] == (caller.component, component, None))
        if owed and asking is not None and definition.scope.kind is ScopeKind.SHARED:
            asking.tell(Doubt(component, owed))  # sessions that would use the link that is made now
        links: list[tuple[Peer, Endpoint]] = []
        for shard in shards:
            port = self._shards.ports.get(shard)
            if port is None or not port.alive():
                continue
            if bind.session:
                self._sessions.introduce(SessionNumber(bind.session), shard)
            try:
                ours, theirs = self.between(caller, component).pair()
            except BaseException:
                for _, endpoint in links:
                    self._wires.dispose(endpoint)
                if definition.scope.kind is ScopeKind.REQUEST:
                    self.release_request(shard)  # nobody will say that it has served
                raise
            port.accept(Peer(caller.component, caller.shard, sessions), theirs)
            links.append((Peer(component, shard), ours))
        if not links:
            raise ShardLost(f"{component} ended just now", outcome="not started")
        return links

    def _is_replaced(self, shard: ShardId) -> bool:
        """Whether it was taken out after it was granted, and before whoever asked had its turn."""
        record = self._shards.composer.shard(shard)
        return record is not None and record.stopping

    def between(self, caller: Peer, callee: ComponentName) -> Transport:
        """What joins them. Raises NodeError."""
        edge = self._plan.edge(caller.component, callee)
        # within a trust domain large values are what is sent, and go through sooner where more of them fits
        return self._wires.between(caller.component, callee, wide=edge is not None and edge.pickle)

    async def _acquired(self, caller: Peer, number: SessionNumber, definition: ShardDefinition, bind: Bind) -> ShardId:
        """The shard of the route; a shard cannot have others made without limit. Raises Overloaded."""
        component, kind = definition.component, definition.scope.kind
        trusted = caller.shard == CLIENT.shard or caller.component == GATEWAY_COMPONENT
        counted = not trusted and (
            kind is ScopeKind.REQUEST
            or (kind is ScopeKind.KEY and not self._shards.composer.serves(component, bind.key))
        )
        if counted:
            await self._made_for.take(caller.shard, component, "request" if kind is ScopeKind.REQUEST else "key")
        try:
            shard = (await self._shards.acquire(number, component, bind.key, bind.lost)).shard
        except BaseException:
            if counted:
                self._made_for.not_made(caller.shard, component)
            raise
        if counted:
            self._made_for.made(shard, caller.shard, component)
        return shard

    def _permitted(self, caller: Peer, bind: Bind) -> SessionNumber:
        """The session to act for. Raises NotPermitted."""
        if not any(d.component == bind.component for d in self._plan.definitions):
            raise NotPermitted(f"there is no component {bind.component!r}", outcome="not started")
        number = SessionNumber(bind.session)
        if caller.shard == CLIENT.shard:
            if not self._sessions.session_lives(number):
                raise NotPermitted("the session has ended", outcome="not started", remedy="begin a new one")
            return number
        if self._plan.edge(caller.component, bind.component) is None:
            raise NotPermitted(
                f"{caller.component} may not call {bind.component}: no such edge in the plan",
                outcome="not started",
                remedy=f'add "{bind.component}" to depends_on of [components.{caller.component}]',
            )
        if number == NO_SESSION:
            return self._own_session(caller.shard)
        record = self._shards.composer.shard(caller.shard)
        own = record is not None and record.scope in (ScopeKind.SESSION, ScopeKind.REQUEST)
        mine = record is not None and (not own or number in record.sessions)
        if not self._sessions.session_lives(number) or not mine:
            raise NotPermitted(f"{caller.shard} does not serve that session", outcome="not started")
        return number

    def _own_session(self, shard: ShardId) -> SessionNumber:
        """What a shard needs for itself, outside any session, it holds until it ends. Raises NotPermitted after that."""
        if shard not in self._own:
            if self._shards.composer.shard(shard) is None:
                raise NotPermitted(f"{shard} has ended", outcome="not started")
            self._own[shard] = self._sessions.begin_own(shard)
        return self._own[shard]

    def on_bind(self, port: ShardPort, bind: Bind) -> None:
        if self._pending[port.shard] >= MAX_PENDING_BINDS:
            port.close(f"it asked for more than {MAX_PENDING_BINDS} bindings at once")
            return
        self._pending[port.shard] += 1
        self._shards.spawn(self._answer(port, bind))

    def on_why(self, port: ShardPort, why: Why) -> None:
        if self._pending[port.shard] >= MAX_PENDING_BINDS:
            port.close(f"it asked for more than {MAX_PENDING_BINDS} bindings and ends at once")
            return
        self._pending[port.shard] += 1
        self._shards.spawn(self._say_why(port, why))

    async def _say_why(self, port: ShardPort, why: Why) -> None:
        permitted = self._plan.edge(port.component, why.component) is not None
        try:
            reason = await self._shards.why(ShardId(why.shard), ComponentName(why.component)) if permitted else ""
        finally:
            self._answered(port)
        port.because(Because(why.request, reason))

    async def _answer(self, port: ShardPort, bind: Bind) -> None:
        try:
            await self._bind_for(port, bind)
        except Exception as defect:  # whoever asked must get an answer
            port.bound(Bound(bind.request, f"the node could not bind {bind.component}: {defect!r}", CallError.code))
            raise
        finally:
            self._answered(port)

    def _answered(self, port: ShardPort) -> None:
        self._pending[port.shard] -= 1
        if not self._pending[port.shard]:
            del self._pending[port.shard]

    async def _bind_for(self, port: ShardPort, bind: Bind) -> None:
        record = self._shards.composer.shard(port.shard)
        narrow = record is not None and record.scope is ScopeKind.SESSION
        # a link of a shard that serves sessions speaks for one of them (``bind`` checks which), or for the shard itself
        sessions = frozenset({SessionNumber(bind.session)}) if narrow else None
        try:
            links = await self.bind(Peer(port.component, port.shard, sessions), bind)
        except ShardwrightError as error:
            outcome = error.outcome if isinstance(error, CallError) else "not started"
            port.bound(Bound(bind.request, error.message, error.code, error.remedy, outcome))
            self._sessions.record_of(port, "refuse", f"{port.component} was refused {bind.component[:64]}: {error}")
            return
        except OSError as error:
            if not scarce(error):
                raise
            for each in list(self._shards.ports.values()):  # who leaves them unread keeps everybody from being linked
                each.stop_hoarding()
            why = f"{bind.component} cannot be linked now: {error.strerror}"
            port.bound(Bound(bind.request, why, CallError.code, TOO_MANY_PASSED, "not started"))
            self._sessions.record_of(port, "refuse", f"{port.component} was refused {bind.component[:64]}: {error}")
            return
        for peer, endpoint in links:
            port.offer(bind.request, peer, endpoint)
        port.bound(Bound(bind.request))

    def on_unbind(self, port: ShardPort, unbind: UnbindRequest) -> None:
        shard = ShardId(unbind.shard)
        if self._requests.get(shard) == port.shard:  # nobody gives back what others use
            self.release_request(shard)

    def release_request(self, shard: ShardId) -> None:
        """A shard of request scope has served its request."""
        self._requests.pop(shard, None)
        self._made_for.done(shard)
        self._shards.perform(self._shards.composer.release_request(shard, self._clock.monotonic_s()))
        self._shards.freed()

    def offer(self, callee: ShardPort) -> None:
        """It may be called from now on: a further instance for callers that are bound to its component already."""
        for caller in list(self._callers.get(callee.component, {}).values()):
            self._offer(caller, callee)

    def forget(self, shard: ShardId) -> SessionNumber | None:
        """It has ended. The session that it had of its own, which is to be ended as well."""
        self._requests.pop(shard, None)
        for used in [used for used, caller in self._requests.items() if caller == shard]:
            self.release_request(used)
        for callers in self._callers.values():
            callers.pop(shard, None)
        return self._own.pop(shard, None)

    def own(self) -> frozenset[SessionNumber]:
        """The sessions in which shards act for themselves."""
        return frozenset(self._own.values())

    def _offer(self, caller: Peer, callee: ShardPort) -> None:
        """A further instance for a caller that is bound to the component already."""
        offer = self.offer_client if caller is CLIENT else None
        port = self._shards.ports.get(caller.shard)
        if port is None and offer is None:
            self._callers[callee.component].pop(caller.shard, None)
            return
        try:
            ours, theirs = self.between(caller, callee.component).pair()
        except OSError as error:  # it has another instance
            self._sessions.record("failure", f"{caller.shard} cannot be linked to it: {error}", shard=callee.shard)
            return
        callee.accept(caller, theirs)
        peer = Peer(callee.component, callee.shard)
        if port is not None:
            port.offer(0, peer, ours)
        elif offer is not None:
            offer(peer, ours)
