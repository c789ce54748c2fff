"""Which links the gateway has to which shards: asked of the node when a call needs one, once for all that need it."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Sequence

from shardwright.errors import (
    CallError,
    ChannelClosed,
    DeadlineExceeded,
    NotPermitted,
    ShardLost,
    ShardwrightError,
)
from shardwright.gateway._hub import LoopHub, LoopLink
from shardwright.gateway._talk import NodeTalk
from shardwright.guest import RINGS, Bind, Bound, CallContext, Offer, Route, Router, Unbind, refusal
from shardwright.model.endpoint import Peer
from shardwright.model.ids import ComponentName, ShardId
from shardwright.model.scope import ScopeKind
from shardwright.model.shard import ShardDefinition

__all__ = ["Bindings"]


class Bindings:
    """Makes links and enters them with the router. ``closed``: there will be no further ones. Use from its loop alone."""

    def __init__(self, loop: asyncio.AbstractEventLoop, hub: LoopHub, router: Router[LoopLink], talk: NodeTalk) -> None:
        self._loop = loop
        self._hub = hub
        self._router = router
        self._talk = talk
        self._requests = itertools.count(1)
        self._binding_now: dict[Route, asyncio.Future[ShardwrightError | None]] = {}
        self._asked: dict[int, tuple[asyncio.Future[Bound], list[LoopLink]]] = {}
        self.closed = False

    def __repr__(self) -> str:
        return f"<Bindings, {len(self._asked)} asked for>"

    # -- for a call ------------------------------------------------------------------------------------------------

    async def ready(
        self, definition: ShardDefinition, way: Route, context: CallContext, what: str, deadline_ns: int
    ) -> LoopLink:
        """A link that takes a call now, bound if need be. Raises what hinders it, DeadlineExceeded."""
        try:
            async with asyncio.timeout_at(deadline_ns / 1e9 if deadline_ns else None):
                while True:
                    link = await self._link(definition, way, context)
                    try:
                        if link.full:
                            await link.room()
                        return link
                    except ChannelClosed:
                        self.give_back(definition, way, link)
        except TimeoutError as late:
            if isinstance(late, DeadlineExceeded):
                raise
            raise DeadlineExceeded(
                f"{what}: no shard could be reached within the deadline", outcome="not started"
            ) from None

    async def _link(self, definition: ShardDefinition, way: Route, context: CallContext) -> LoopLink:
        """The link to use now. The first that needs it asks the node; the others wait for that, and share a failure."""
        if definition.scope.kind is ScopeKind.REQUEST:
            return (await self._bind(way, context, ()))[0]
        while True:
            link = self._router.known(definition, way, context)
            if link is not None:
                return link
            waiting = self._binding_now.get(way)
            if waiting is not None:
                failure = await asyncio.shield(waiting)
                if failure is not None:
                    raise failure
                continue
            done = self._binding_now[way] = self._loop.create_future()
            failed: ShardwrightError | None = None
            try:
                asked, lost = self._router.question(way, context.session)
                link = self._router.bound(definition, way, context, await self._bind(asked, context, lost))
                if link is not None:
                    return link
            except ShardwrightError as error:
                # what is said of one session does not concern the others
                failed = None if isinstance(error, NotPermitted | ShardLost) else error
                raise
            finally:
                del self._binding_now[way]
                done.set_result(failed)

    async def _bind(self, route: Route, context: CallContext, lost: Sequence[ShardId]) -> list[LoopLink]:
        request = next(self._requests)
        future: asyncio.Future[Bound] = self._loop.create_future()
        links: list[LoopLink] = []
        self._asked[request] = (future, links)
        try:
            self._talk.send(Bind(request, route.component, context.session, route.key, route.shard, tuple(lost)))
            bound = await future
        except ChannelClosed as gone:
            raise ShardLost(f"the node is gone: {gone}", outcome="not started") from None
        except BaseException:
            for link in links:
                link.close()
            raise
        finally:
            self._asked.pop(request, None)
        if not links and (bound.error or route.key is None or route.shard is None):
            raise (
                refusal(bound)
                if bound.error
                else CallError(f"{route.component} could not be reached", outcome="not started")
            )
        return links

    def give_back(self, definition: ShardDefinition, way: Route, link: LoopLink) -> None:
        """A shard of request scope has served its request."""
        if definition.scope.kind is ScopeKind.REQUEST and not self.closed:
            try:
                self._talk.send(Unbind(way.component, link.peer.shard))
            except ChannelClosed:
                pass
            self._loop.call_soon(link.close)  # after what it is doing now

    # -- what the node says ----------------------------------------------------------------------------------------

    def bound(self, answer: Bound) -> None:
        """The node has answered."""
        asked = self._asked.get(answer.request)
        if asked is not None and not asked[0].done():
            asked[0].set_result(answer)

    def offered(self, offer: Offer, descriptor: int) -> None:
        """A link to a shard, asked for or not; the descriptor is used up."""
        asked = self._asked.get(offer.request)
        if offer.transport not in ("socket", RINGS) or self.closed or (offer.request and asked is None):
            os.close(descriptor)
            return
        try:
            link = self._hub.open(
                descriptor, offer.transport, Peer(ComponentName(offer.component), ShardId(offer.shard))
            )
        except ChannelClosed:
            return  # who asked hears that it could not be reached
        if asked is not None:
            asked[1].append(link)
        else:
            self._router.offered(Route(ComponentName(offer.component)), link)
