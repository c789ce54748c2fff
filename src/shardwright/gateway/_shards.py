"""The Backend over links to shards: bindings are asked of the node, calls go straight to the shards."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from shardwright.errors import (
    CallError,
    ChannelClosed,
    ProtocolViolation,
    ShardLost,
)
from shardwright.gateway._backend import OWN_SESSION, Exchange, NodeView
from shardwright.gateway._bindings import Bindings
from shardwright.gateway._calls import Heard, OpenCall, Ways
from shardwright.gateway._deadlines import Deadlines
from shardwright.gateway._exchanges import LinkExchange
from shardwright.gateway._hub import LoopHub, LoopLink
from shardwright.gateway._keys import WrongKey, key_in
from shardwright.gateway._node_sessions import NodeSessions
from shardwright.gateway._random import random_bytes
from shardwright.gateway._replies import operation_of, settle
from shardwright.gateway._routes import parameters
from shardwright.gateway._talk import NodeTalk
from shardwright.guest import (
    Answer,
    AskCounts,
    AskLoad,
    AskNode,
    Bound,
    CallContext,
    Counts,
    Described,
    Doubt,
    Forget,
    FunctionReply,
    FunctionRequest,
    Load,
    NodeTold,
    Note,
    Offer,
    Retire,
    Route,
    Router,
    SessionBegins,
    SessionBegun,
    SessionEnds,
    Unsaid,
    encode_web,
)
from shardwright.guest import Describe as DescribeRequest
from shardwright.model.endpoint import Peer
from shardwright.model.envelope import Envelope, Kind, PayloadCodec
from shardwright.model.ids import ComponentName, SessionNumber, ShardId
from shardwright.model.scope import ScopeKind
from shardwright.model.shard import RouteTarget, ShardPlan
from shardwright.monitoring import decode

NO_TRACE = b"\0" * 16
DESCRIBE_S = 10.0
LOOK_S = 5.0


class ShardBackend:
    """All shards that the gateway may call, over one node's control conversation. Use from its event loop alone.

    ``session_idle_s`` is when the node ends a session that it does not hear of.
    """

    def __init__(self, plan: ShardPlan, talk: NodeTalk, *, session_idle_s: float = 1800.0) -> None:
        self._plan = plan
        self._definitions = {definition.component: definition for definition in plan.definitions}
        self._talk = talk
        self._loop = asyncio.get_running_loop()
        self._hub = LoopHub(self._loop, self)
        self._router: Router[LoopLink] = Router(_Nobody())
        self._shared_ways = {  # which are the same for every call
            each.component: Route(each.component) for each in plan.definitions if each.scope.kind is ScopeKind.SHARED
        }
        self._bindings = Bindings(self._loop, self._hub, self._router, talk)
        self._requests = itertools.count(1)
        self._looks: dict[int, asyncio.Future[NodeTold]] = {}
        self._sessions = NodeSessions(talk, session_idle_s, self._close_links_of)
        self._idle_since_s = time.monotonic()
        self._deadlines = Deadlines(self._loop)
        self._ways = Ways(self._router, self._deadlines)
        self.obey_rest: Callable[[Any, list[int]], None] | None = None  # messages that are not about links or sessions

    def __repr__(self) -> str:
        return f"<ShardBackend {len(self._hub.links)} links, {len(self._sessions)} sessions, {self.running} running>"

    @property
    def running(self) -> int:
        """Calls and exchanges in progress."""
        return sum(link.in_flight for link in self._hub.links)

    def close(self) -> None:
        """End every conversation with a shard; whoever waits hears of it."""
        self._bindings.closed = True
        self._sessions.close()
        self._hub.close()
        self._deadlines.close()

    # -- sessions ----------------------------------------------------------------------------------------------

    def session(self, name: str) -> int | None:
        return self._sessions.number(name)

    async def begin_session(self, name: str) -> int:
        return await self._sessions.begin(name)

    async def end_session(self, name: str) -> None:
        self._sessions.end(name)

    @property
    def on_session_ended(self) -> Callable[[str], None] | None:
        return self._sessions.on_ended

    @on_session_ended.setter
    def on_session_ended(self, heard: Callable[[str], None] | None) -> None:
        self._sessions.on_ended = heard

    def _close_links_of(self, number: SessionNumber) -> None:
        for link in self._router.session_ended(number):
            link.close()

    # -- the node ----------------------------------------------------------------------------------------------

    async def node(self, *, numbers: bool = False) -> NodeView:
        told = await self._look(numbers=numbers)
        return NodeView(told.alive, told.ready, told.reasons, decode(told.numbers) if told.numbers else ())

    async def status(self) -> dict[str, Any]:
        told = await self._look(status=True)
        shown = {"ready": told.ready, "reasons": list(told.reasons)}
        return {**shown, **msgspec.json.decode(told.status, type=dict[str, Any])} if told.status else shown

    async def _look(self, *, numbers: bool = False, status: bool = False) -> NodeTold:
        request = next(self._requests)
        future: asyncio.Future[NodeTold] = self._loop.create_future()
        self._looks[request] = future
        try:
            self._talk.send(AskNode(request, numbers, status))
            async with asyncio.timeout(LOOK_S):
                return await future
        except ChannelClosed as gone:
            raise ShardLost(f"the node is gone: {gone}", outcome="not started") from None
        except TimeoutError:
            raise ShardLost(f"the node did not answer within {LOOK_S:g} s") from None
        finally:
            self._looks.pop(request, None)

    # -- functions ---------------------------------------------------------------------------------------------

    def begin(
        self,
        route: RouteTarget,
        session: int,
        request: FunctionRequest,
        heard: Heard,
        *,
        deadline_ns: int = 0,
        trace_id: bytes = NO_TRACE,
    ) -> OpenCall | None:
        context = self._sessions.known(session)
        if context is None or route.scope is ScopeKind.REQUEST:
            return None
        try:
            key = key_in(route, request) if route.scope is ScopeKind.KEY else None
        except WrongKey:
            return None
        number = context.session
        self._sessions.use(number)
        definition = self._definitions[route.component]
        way = self._shared_ways.get(route.component) or self._router.route(definition, number, key)
        link = self._router.known(definition, way, context)
        if link is None or link.full:
            return None
        envelope = _opening(link, route, number, deadline_ns, trace_id, encode_web(request))
        try:
            return OpenCall(self._ways, link, envelope, way, route.name, heard)
        except ChannelClosed:
            return None  # nothing was started

    async def call(
        self,
        route: RouteTarget,
        session: int,
        request: FunctionRequest,
        *,
        deadline_ns: int = 0,
        trace_id: bytes = NO_TRACE,
    ) -> FunctionReply:
        key = None
        if route.scope is ScopeKind.KEY:
            try:
                key = key_in(route, request)
            except WrongKey as wrong:
                return wrong.reply
        answer = await self._ask(route, session, key, encode_web(request), deadline_ns, trace_id)
        if type(answer) is not FunctionReply:
            raise CallError(f"{route.name} gave no answer of a function", outcome="failed")
        return answer

    async def describe(self, route: RouteTarget, method: str) -> dict[str, Any]:
        payload = encode_web(DescribeRequest(parameters(route.path), method))
        deadline_ns = time.monotonic_ns() + int(DESCRIBE_S * 1e9)
        answer = await self._ask(route, OWN_SESSION, None, payload, deadline_ns, NO_TRACE)
        if not isinstance(answer, Described):
            raise CallError(f"{route.name} gave no description", outcome="failed")
        return operation_of(answer)

    async def _ask(
        self, target: RouteTarget, session: int, key: str | None, payload: bytes, deadline_ns: int, trace_id: bytes
    ) -> Answer:
        context = self._sessions.known(session)
        if context is None:
            context = await self._sessions.context(session)
        number = context.session
        self._sessions.use(number)
        definition = self._definitions[target.component]
        way = self._router.route(definition, number, key)
        future: asyncio.Future[Answer] = self._loop.create_future()
        while True:
            link = self._router.known(definition, way, context)
            if link is None or link.full:
                link = await self._bindings.ready(definition, way, context, target.name, deadline_ns)
            envelope = _opening(link, target, number, deadline_ns, trace_id, payload)
            try:
                call = OpenCall(self._ways, link, envelope, way, target.name, partial(settle, future))
                break
            except ChannelClosed:
                self._bindings.give_back(definition, way, link)  # nothing was started: another one
            except BaseException:
                self._bindings.give_back(definition, way, link)
                raise
        try:
            return await future
        except asyncio.CancelledError:
            call.cancel()
            raise
        finally:
            if definition.scope.kind is ScopeKind.REQUEST:
                self._bindings.give_back(definition, way, link)

    # -- applications ------------------------------------------------------------------------------------------

    async def open(
        self, route: RouteTarget, session: int, scope: dict[str, Any], *, trace_id: bytes = NO_TRACE
    ) -> Exchange:
        context = await self._sessions.context(session)
        number = context.session
        definition = self._definitions[route.component]
        way = self._router.route(definition, number, None)
        link = await self._bindings.ready(definition, way, context, route.name, 0)
        self._sessions.opened(number)

        def ended() -> None:
            self._sessions.closed(number)
            if link.closed is not None:
                self._router.told(way, number)
            self._bindings.give_back(definition, way, link)

        self._ways.made += 1
        opening = partial(_opening, link, route, number, 0, trace_id)
        return LinkExchange(link, route.name, scope, opening, ended)

    # -- links -------------------------------------------------------------------------------------------------

    def on_closed(self, link: LoopLink, reason: ChannelClosed) -> None:
        self._router.lost(link)
        if isinstance(reason, ProtocolViolation):
            self.note("violation", f"{link.peer.shard} was cut off: {reason}")

    def note(self, kind: str, message: str) -> None:
        """Something that the journal should know."""
        try:
            self._talk.send(Note(kind, message[:2000]))
        except ChannelClosed:
            pass

    # -- what the node says ------------------------------------------------------------------------------------

    def obey(self, message: Any, descriptors: list[int]) -> None:
        """One message of the node; its descriptors are used up."""
        match message:
            case Offer():
                self._bindings.offered(message, descriptors.pop(0))
            case Bound():
                self._bindings.bound(message)
            case SessionBegins():
                self._sessions.on_begins(message.session, message.name)
            case SessionBegun():
                self._sessions.on_begun(message)
            case NodeTold():
                told = self._looks.get(message.request)
                if told is not None and not told.done():
                    told.set_result(message)
            case SessionEnds():
                self._sessions.on_ends(message.session)
            case Forget():
                for link in self._router.forget(
                    Route(ComponentName(message.component), session=SessionNumber(message.session))
                ):
                    link.close()
            case Retire():
                unsaid = self._router.retire(ShardId(message.shard), lost=message.lost)
                if message.request:
                    self._talk.send(Unsaid(message.request, tuple(unsaid)))
            case Doubt():
                self._router.doubt(ComponentName(message.component), map(SessionNumber, message.sessions))
            case AskCounts():
                made, failed = self._ways.made, dict(self._ways.failed)
                self._talk.send(Counts(message.request, 0, made, {}, failed, self.running, 0, time.process_time()))
            case AskLoad():
                running = self.running
                now = time.monotonic()
                if running:
                    self._idle_since_s = now
                self._talk.send(Load(message.request, running, now - self._idle_since_s))
            case _ if self.obey_rest is not None:
                self.obey_rest(message, descriptors)
                return
        for descriptor in descriptors:
            os.close(descriptor)


class _Nobody:
    """Bindings are asked for on the loop, never by the router."""

    def bind(self, route: Route, context: CallContext, lost: Sequence[ShardId] = ()) -> Sequence[LoopLink]:
        raise NotImplementedError

    def release(self, route: Route, link: LoopLink) -> None:
        raise NotImplementedError

    def why(self, peer: Peer) -> str:
        return ""  # clients are not told


def _opening(
    link: LoopLink, target: RouteTarget, session: SessionNumber, deadline_ns: int, trace_id: bytes, payload: bytes
) -> Envelope:
    chain = int.from_bytes(random_bytes(8), "little") | 1  # not to be guessed by a shard that would join it
    return Envelope(
        Kind.CALL, link.next_id(), session, target.method_id, 0, deadline_ns, trace_id, 0, chain, PayloadCodec.WEB,
        payload,
    )  # fmt: skip
