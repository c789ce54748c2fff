"""Outgoing calls that are awaited: what ``_caller`` does, where waiting is an event loop's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from shardwright.errors import ChannelClosed, DeadlineExceeded
from shardwright.guest._caller import Attempts, Caller, _describe, _envelope, _raise_lost
from shardwright.guest._context import CallContext
from shardwright.guest._link import Link, Ticket, Untaken
from shardwright.guest._loop import is_polite
from shardwright.guest._nesting import need_room
from shardwright.guest._router import Route
from shardwright.model.envelope import Envelope, Kind
from shardwright.model.ids import ShardId

if TYPE_CHECKING:
    from concurrent.futures import Future

    from shardwright.model.shard import EntryPoint, ShardDefinition


async def call_async(
    caller: Caller,
    definition: ShardDefinition,
    entry: EntryPoint,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    target: tuple[ShardId, int] | None,
    route: Route | None,
) -> Any:
    """Call and await. Cancelling the awaiting task cancels the call."""
    context = caller.context()
    if route is None:
        route = caller._route(definition, entry, args, kwargs, target, context)
    arguments: Any = (target[1] if target else None, args, dict(kwargs) or None)
    carried = caller.carried
    if carried is not None:
        arguments = (*arguments, carried.values())
    need_room()
    caller.before_call()
    again = Attempts(entry, definition, target) if entry.idempotent else None
    with caller.counted:
        while True:
            link = caller._known(definition, route, context)
            if link is None:
                link = await bound(caller, definition, route, context)
            try:
                payload, buffers, memo = link.codec.encode_request(
                    arguments, describe=_describe(definition, entry.name)
                )
                envelope = _envelope(link, Kind.CALL, entry.method_id, payload, buffers, context, context.blocked)
                begin = partial(caller._begin, definition, route, link, envelope, what=entry.name)
                outcome = await exchange(caller, link, envelope, begin, entry.name, context)
            finally:
                caller.router.request_done(definition, route, link)
            if outcome is None or isinstance(outcome, Untaken):
                continue
            if isinstance(outcome, ChannelClosed):
                if again is not None and again.left(context):
                    continue
                caller.router.told(route, context.session)
                _raise_lost(link, entry.name, outcome, await why(caller, link))
            answer = caller._result(link, outcome, memo, entry.name)
            return answer if carried is None else carried.take_back(answer)


async def bound(caller: Caller, definition: ShardDefinition, route: Route, context: CallContext) -> Link:
    """The link, bound without stopping the event loop, and without a thread of its executor."""
    binding: Future[Link] = caller.errands.run(partial(caller.router.link, definition, route, context))
    try:
        return await asyncio.wrap_future(binding)
    except BaseException:
        binding.add_done_callback(partial(_give_back, caller, definition, route))
        raise


def _give_back(caller: Caller, definition: ShardDefinition, route: Route, binding: Future[Link]) -> None:
    """Nobody waits for the link any more: a shard that was made for this one request is not kept."""
    if not binding.cancelled() and binding.exception() is None:
        caller.router.request_done(definition, route, binding.result())


async def why(caller: Caller, link: Link) -> str:
    """What the node knows of the end of the shard there."""
    return await asyncio.wrap_future(caller.errands.run(partial(caller.router.binder.why, link.peer)))


async def exchange(
    caller: Caller,
    link: Link,
    envelope: Envelope,
    begin: Callable[[Ticket], bool],
    what: str,
    context: CallContext,
) -> Envelope | ChannelClosed | None:
    """Send by ``begin``, and await the reply; None where ``begin`` says that nothing was started.

    Raises DeadlineExceeded. Whoever stops waiting abandons the call.
    """
    loop = asyncio.get_running_loop()
    awaited = Awaited(loop)
    stuck = caller.mailbox is not None and not is_polite(loop) and caller.mailbox.holds()
    if stuck:  # then what comes back must be refused, for its turn would never come
        caller.chains.stick(envelope.chain)
    try:
        if not begin(awaited):
            return None
        try:
            return await asyncio.wait_for(awaited.future, context.remaining_s())
        except TimeoutError:
            link.abandon(envelope.call_id)
            raise DeadlineExceeded(f"{what}: no reply within the deadline") from None
        except BaseException:
            link.abandon(envelope.call_id)
            raise
    finally:
        if stuck:
            caller.chains.unstick(envelope.chain)


class Awaited:
    """The ticket of an awaited call."""

    __slots__ = ("future", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.future: asyncio.Future[Envelope | ChannelClosed] = loop.create_future()

    def deliver(self, outcome: Envelope | ChannelClosed) -> None:
        try:
            self.loop.call_soon_threadsafe(self._settle, outcome)
        except RuntimeError:
            pass  # the loop was closed meanwhile: nobody waits

    def _settle(self, outcome: Envelope | ChannelClosed) -> None:
        if not self.future.done():
            self.future.set_result(outcome)
