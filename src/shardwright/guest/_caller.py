"""Outgoing calls: from a proxy's arguments to a message, and from the reply to a result.

A blocked thread puts the shard's baton down while it waits, runs calls of its own chain that come back meanwhile, and
takes the baton up again before it goes on with user code.

A little beyond 400 lines: the steps of a call, and what each of them does when it fails, stand in one place. The awaiting
way is ``_async_calls``.
"""

from __future__ import annotations

import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from queue import Empty
from typing import TYPE_CHECKING, Any, NoReturn

from shardwright.errors import (
    CallError,
    ChannelClosed,
    DeadlineExceeded,
    ProtocolViolation,
    ShardLost,
    ShardwrightError,
    WouldDeadlock,
)
from shardwright.guest._carried import Carried
from shardwright.guest._chains import AnyWaiting, Chains
from shardwright.guest._context import NOWHERE, CallContext, current_call, new_identifier
from shardwright.guest._errands import Errands
from shardwright.guest._keys import key_of
from shardwright.guest._link import Link, Retired, Ticket, Untaken
from shardwright.guest._nesting import need_room, run_nested
from shardwright.guest._router import Route, Router
from shardwright.guest._service import service_now
from shardwright.model.envelope import Envelope, Kind
from shardwright.model.ids import MethodId, ShardId
from shardwright.model.scope import ScopeKind, StateKind
from shardwright.model.shard import EntryPoint, ShardDefinition
from shardwright.transport import Describe, describe_call
from shardwright.transport.codec import Step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardwright.guest._mailbox import Mailbox
    from shardwright.transport.shm import Desk, Outlet

_CARRIED = 3  # where context variables are, behind these
MAX_AGAIN = 2  # times an idempotent call is made anew
Arguments = tuple[int | None, tuple[Any, ...], dict[str, Any] | None]
"""What a CALL carries: object id (None for a function), positional and keyword arguments (None for none)."""


class Caller:
    """Makes calls for one shard. ``mailbox`` is None where there is no baton to put down (the node's own client)."""

    def __init__(self, router: Router[Link], chains: Chains, mailbox: Mailbox | None) -> None:
        self.router = router
        self.chains = chains
        self.mailbox = mailbox
        self.calls_out = 0
        self.desk: Desk | None = None  # where calls go the quick way (``_outlets``)
        self.failed: dict[str, int] = {}  # calls that ended in an error of ours, by its code
        self.before_call: Callable[[], None] = lambda: None
        self.dropped: deque[Any] = deque()  # handles and streams that were collected, and whose owners are to be told
        self.carried: Carried | None = None  # context variables that travel
        self.counted = Counted(self)
        self.speaks = False  # whether this process has channels
        self.forked = False  # it is a child of one that had
        _callers.add(self)
        self.errands = Errands()
        self.outside_calls: Callable[[CallContext], CallContext] = lambda context: context

    @property
    def all_calls_out(self) -> int:
        """How many calls were made here so far."""
        return self.calls_out if self.desk is None else self.calls_out + self.desk.calls_out

    def context(self) -> CallContext:
        """In which context the calling thread or task calls. Raises NotPermitted when it could be any session's."""
        context = current_call.get()
        return self.outside_calls(context) if context is NOWHERE or context.over else context

    def context_of(self, target: tuple[ShardId, int] | None) -> CallContext | None:
        """In which context a method of that object is called, whoever calls it; None for that of the caller."""
        return None

    # -- blocking ----------------------------------------------------------------------------------------------

    def call(
        self,
        definition: ShardDefinition,
        entry: EntryPoint,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        target: tuple[ShardId, int] | None = None,
        route: Route | None = None,
    ) -> Any:
        """Call and wait. Raises the callee's exception, or a CallError that tells the outcome."""
        return self._call(definition, entry, args, kwargs, target, route, None)

    def call_from(
        self,
        outlet: Outlet,
        definition: ShardDefinition,
        entry: EntryPoint,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """The same, of an outlet whose next calls may go the quick way, where this one went."""
        return self._call(definition, entry, args, kwargs, None, None, outlet)

    def _call(
        self,
        definition: ShardDefinition,
        entry: EntryPoint,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        target: tuple[ShardId, int] | None,
        route: Route | None,
        outlet: Outlet | None,
    ) -> Any:
        context = self.context()
        if route is None:
            route = self._route(definition, entry, args, kwargs, target, context)
        arguments: Any = (target[1] if target else None, args, dict(kwargs) or None)
        carried = self.carried
        if carried is not None:
            arguments, outlet = (*arguments, carried.values()), None
        again = Attempts(entry, definition, target) if entry.idempotent else None
        with self.counted:
            answer = self.exchange(
                definition, route, Kind.CALL, entry.method_id, arguments, entry.name, context, again, outlet=outlet
            )
            return answer if carried is None else carried.take_back(answer)

    def get(self, definition: ShardDefinition, route: Route, owner: str | int, name: str) -> Any:
        """Read an attribute of a module (by its name) or of an object (by its id)."""
        context = self.context()
        carried = self.carried
        asked = (owner, name) if carried is None else (owner, name, carried.values())
        with self.counted:
            answer = self.exchange(definition, route, Kind.GET, MethodId(0), asked, f"reading {name}", context)
            return answer if carried is None else carried.take_back(answer)

    def exchange(
        self,
        definition: ShardDefinition,
        route: Route,
        kind: Kind,
        method: MethodId,
        value: object,
        what: str,
        context: CallContext,
        again: Attempts | None = None,
        *,
        outlet: Outlet | None = None,
        written: tuple[Any, Any, Any] | None = None,
    ) -> Any:
        """``written``: the request, for the first link that is asked, if it has been written already."""
        if service := service_now(self.desk):
            raise WouldDeadlock(
                f"{what}: the thread that does {service} cannot wait for another shard",
                outcome="not started",
                remedy="a __del__ that the garbage collector runs may run on any thread: give it a close() instead",
            )
        need_room()
        self.before_call()
        while True:
            link = self._known(definition, route, context)
            if link is None:
                with self.parked():
                    link = self.router.link(definition, route, context)
            try:
                if written is None:
                    written = link.codec.encode_request(value, describe=_describe(definition, what))
                payload, buffers, memo = written
                written = None
                blocked = self.chains.blocked_by(context)
                envelope = _envelope(link, kind, method, payload, buffers, context, blocked)
                parked = self.mailbox is not None and self.mailbox.holds()
                waiting = link.hub.waiting(
                    envelope.chain, context.session, self.mailbox if parked else None, link.patience
                )
                waiting.asks = link
                self.chains.enter(waiting)
                try:
                    waiting.step_up()
                    if not self._begin(definition, route, link, envelope, waiting, what):
                        waiting.step_back()
                        continue
                    outcome = self._wait(link, waiting, envelope, what)
                except BaseException:
                    waiting.step_back()
                    raise
                finally:
                    for late in self.chains.leave(waiting):
                        late.resubmit()
            finally:
                self.router.request_done(definition, route, link)
            if isinstance(outcome, Untaken):
                continue  # to begin it anew says what became of the shard, and of the state that was there
            if isinstance(outcome, ChannelClosed) and again is not None and again.left(context):
                continue
            result = self.outcome(route, link, outcome, memo, what, context)
            if outlet is not None and link.line is not None:
                self.router.lead(outlet, definition, route, context.session, link, link.line)
            return result

    def outcome(
        self, route: Route, link: Link, outcome: Envelope | ChannelClosed, memo: Any, what: str, context: CallContext
    ) -> Any:
        if isinstance(outcome, Untaken):
            raise outcome
        if isinstance(outcome, ChannelClosed):
            self.router.told(route, context.session)
            with self.parked():
                cause = self.router.binder.why(link.peer)
            _raise_lost(link, what, outcome, cause)
        return self._result(link, outcome, memo, what)

    def wait_on(self, route: Route, link: Link, call_id: int, memo: Any, what: str, context: CallContext) -> Any:
        """The same, from where a call that went the quick way was sent and waits for its reply."""
        envelope = Envelope(Kind.CALL, call_id, context.session, deadline_ns=context.deadline_ns, chain=context.chain)
        parked = self.mailbox is not None and self.mailbox.holds()
        waiting = link.hub.waiting(context.chain, context.session, self.mailbox if parked else None, link.patience)
        waiting.asks = link
        self.chains.enter(waiting)
        try:
            waiting.inbox.extend(link.goes_on(call_id, waiting))
            outcome = self._wait(link, waiting, envelope, what)
        finally:
            for late in self.chains.leave(waiting):
                late.resubmit()
        return self.outcome(route, link, outcome, memo, what, context)

    def _known(self, definition: ShardDefinition, route: Route, context: CallContext) -> Link | None:
        if definition.scope.kind is ScopeKind.REQUEST and route.shard is None:
            return None
        return self.router.known(definition, route, context)

    def _begin(
        self, definition: ShardDefinition, route: Route, link: Link, envelope: Envelope, ticket: Ticket, what: str
    ) -> bool:
        """Send the call. False: the shard had gone, nothing was started, and no state is lost by asking for another."""
        try:
            link.begin(envelope, ticket)
        except Retired:
            return False
        except ChannelClosed as closed:
            # a message that was not taken over whole cannot have been run
            link.close()
            self.router.lost(link)  # the hub may be about to enter it, which must not come after we are told
            if definition.state is StateKind.NONE and route.shard is None:
                return False
            self.router.told(route, envelope.session)
            raise ShardLost(
                f"{what}: {link.peer.shard} is gone, and with it the state that this session had there",
                outcome="not started",
                remedy="the next call starts from fresh state",
            ) from closed
        except DeadlineExceeded:
            raise DeadlineExceeded(f"{what}: the deadline had passed", outcome="not started") from None
        self.calls_out += 1
        return True

    def _wait(self, link: Link, waiting: AnyWaiting, envelope: Envelope, what: str) -> Envelope | ChannelClosed:
        try:
            waiting.begin(None if not envelope.deadline_ns else (envelope.deadline_ns - time.monotonic_ns()) / 1e9)
            while True:
                timeout_s = None
                if envelope.deadline_ns:
                    timeout_s = max(0.0, (envelope.deadline_ns - time.monotonic_ns()) / 1e9)
                try:
                    item = waiting.take(timeout_s)
                except Empty:
                    if link.abandon(envelope.call_id):
                        raise DeadlineExceeded(f"{what}: no reply within the deadline") from None
                    item = waiting.take(None)  # it arrived just now
                if isinstance(item, (Envelope, ChannelClosed)):
                    return item
                # A thread that came without the baton is one that user code made, and whoever made it may hold the baton
                # while it waits for this thread: to wait for the baton here would be a deadlock. So the call runs beside
                # the holder, as that thread's own code does anyway, and as it would if nothing had been cut.
                run_on_top(item)
                waiting.begin()
        except BaseException:
            link.abandon(envelope.call_id)
            raise
        finally:
            waiting.end()

    @contextmanager
    def parked(self) -> Iterator[None]:
        """Put the baton down for a while, if this thread has it."""
        mailbox = self.mailbox
        if mailbox is None or not mailbox.holds():
            yield
            return
        mailbox.release()
        try:
            yield
        finally:
            mailbox.acquire()

    # -- awaiting ----------------------------------------------------------------------------------------------

    async def call_async(
        self,
        definition: ShardDefinition,
        entry: EntryPoint,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        target: tuple[ShardId, int] | None = None,
        route: Route | None = None,
    ) -> Any:
        """Call and await. Cancelling the awaiting task cancels the call."""
        from shardwright.guest._async_calls import call_async  # who calls this has asyncio; others need not

        return await call_async(self, definition, entry, args, kwargs, target, route)

    # -- both --------------------------------------------------------------------------------------------------

    def _route(
        self,
        definition: ShardDefinition,
        entry: EntryPoint,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        target: tuple[ShardId, int] | None,
        context: CallContext,
    ) -> Route:
        if target is not None:
            return self.router.object_route(definition.component, context.session, target[0])
        key = None
        if definition.scope.kind is ScopeKind.KEY:
            key = key_of(definition, entry, args, kwargs)
        return self.router.route(definition, context.session, key)

    def _result(self, link: Link, outcome: Envelope, memo: Any, what: str) -> Any:
        codec = link.codec_of(outcome.codec) or link.codec
        try:
            if outcome.kind is Kind.RESULT:
                return codec.decode_reply(outcome.payload, outcome.buffers, memo)
            error = codec.decode_error(outcome.payload, outcome.buffers, memo)
        except ProtocolViolation as violation:  # of this message: the shard lives, and so does the state in it
            raise CallError(f"{what}: {link.peer.shard} sent a reply that cannot be read: {violation}") from violation
        raise error


class Counted:
    """Around a call: what context variables its error brought along are set, and errors of ours are counted."""

    __slots__ = ("_caller",)

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None:
            return
        caller = self._caller
        if caller.carried is not None:
            caller.carried.taken_from(error)
        if isinstance(error, ShardwrightError) and not isinstance(error, Untaken):
            caller.failed[error.code] = caller.failed.get(error.code, 0) + 1


_callers: weakref.WeakSet[Caller] = weakref.WeakSet()


def _forked() -> None:
    """A child that user code forked has its parent's channels, but nobody who reads them; and both would write into them."""
    for caller in list(_callers):
        if caller.speaks:
            caller.forked, caller.before_call = True, _without_channels


def _without_channels() -> None:
    raise CallError(
        f"process {os.getpid()} was forked from one that speaks with other shards, and has no channels of its own",
        outcome="not started",
        remedy="call them from the process that forked it, or start a new one (multiprocessing's 'spawn', subprocess)",
    )


os.register_at_fork(after_in_child=_forked)


class Attempts:
    """How often an idempotent call may be made again whose outcome is unknown, for its shard ended while it ran.

    Only where no state was lost with that shard: whoever had state there must hear of it.
    """

    __slots__ = ("_left",)

    def __init__(self, entry: EntryPoint, definition: ShardDefinition, target: tuple[ShardId, int] | None) -> None:
        stateless = definition.state is StateKind.NONE and target is None
        self._left = MAX_AGAIN if entry.idempotent and stateless else 0

    def left(self, context: CallContext) -> bool:
        """Whether to make it once more; counts it."""
        remaining_s = context.remaining_s()
        if not self._left or (remaining_s is not None and remaining_s <= 0):
            return False
        self._left -= 1
        return True


def run_on_top(call: Any) -> None:
    """Run a call of the chain that the calling thread waits on."""
    if not run_nested(call.run):
        # uncut, this recursion would end as well; and half-run calls of ours must not be cut by it
        call.refuse(RecursionError("maximum recursion depth exceeded across shards"))


def _envelope(
    link: Link, kind: Kind, method: MethodId, payload: Any, buffers: Any, context: CallContext, blocked: int
) -> Envelope:
    call_id = link.next_id()
    return Envelope(
        kind=kind,
        call_id=call_id,
        session=context.session,
        method=method,
        deadline_ns=context.deadline_ns,
        trace_id=context.trace_id if context is not NOWHERE else os.urandom(16),
        blocked=blocked,
        chain=context.chain or new_identifier(),
        codec=link.codec_id,
        payload=payload,
        buffers=buffers,
    )


def _raise_lost(link: Link, what: str, closed: ChannelClosed, cause: str) -> NoReturn:
    if isinstance(closed, ProtocolViolation):
        raise ShardLost(f"{what}: {link.peer.shard} broke the protocol and was cut off: {closed}") from closed
    raise ShardLost(
        f"{what}: {link.peer.shard} ended while it was running this call{cause and f' ({cause})'}"
    ) from closed


def _describe(definition: ShardDefinition, what: str) -> Describe:
    """Words for where an argument that does not fit sits."""

    def describe(steps: tuple[Step, ...]) -> str:
        # the request is (object id, positional, keywords); people count from the first argument
        if len(steps) > 1 and steps[0][0] == "item" and steps[0][1] == _CARRIED:
            return f"{definition.component}.{what}(): a context variable that travels with it"
        if steps and steps[0][0] == "item" and steps[0][1] > 0:
            steps = (("item", steps[0][1] - 1), *steps[1:])
        return f"{definition.component}.{what}(): {describe_call(steps)}"

    return describe
