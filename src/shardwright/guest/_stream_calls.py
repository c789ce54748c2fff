"""Generators of other shards, iterated over from here: the consumer's side of ``_streams``.

What a proxy of a generator function gives is a generator of Python, so everything that may be done with one may be done with
it, from ``yield from`` to ``throw``. The call is made with its first step: until then nothing of a generator runs, and its
arguments are the caller's own. Every step is a call of its own, with the deadline and in the session of who makes it. A
generator is closed with its consumer: by ``close()``, by leaving a loop, by being forgotten. Where that happens on a thread
that must not wait, or inside the garbage collector, its owner is told and not waited for.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from shardwright.errors import (
    CallError,
    ChannelClosed,
    DeadlineExceeded,
    ShardLost,
    WouldDeadlock,
)
from shardwright.guest._caller import Caller, _describe, _envelope, _raise_lost
from shardwright.guest._context import CallContext
from shardwright.guest._nesting import need_room
from shardwright.guest._router import Route
from shardwright.guest._service import service_now
from shardwright.guest._streams import GOES_ON, MAX_ITEMS, NEXT
from shardwright.model.envelope import Envelope, Kind
from shardwright.model.ids import ShardId
from shardwright.transport.codec import joined

if TYPE_CHECKING:
    from shardwright.guest._link import Link, Ticket
    from shardwright.model.shard import EntryPoint, ShardDefinition

AHEAD_BYTES = 256 * 1024  # of items that one step asks for, where the generator may run ahead

_collecting = 0  # the thread that collects garbage now


def _note_collection(phase: str, _: dict[str, int]) -> None:
    global _collecting
    _collecting = threading.get_ident() if phase == "start" else 0


class Stream:
    """One generator of another shard. ``context``: in which it is called; None for that of whoever steps it."""

    __slots__ = (
        "_args",
        "_caller",
        "_context",
        "_credit",
        "_definition",
        "_entry",
        "_kwargs",
        "_link",
        "_memo",
        "_number",
        "_over",
        "_route",
        "_target",
    )

    def __init__(
        self,
        caller: Caller,
        definition: ShardDefinition,
        entry: EntryPoint,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        target: tuple[ShardId, int] | None = None,
        context: CallContext | None = None,
    ) -> None:
        if _note_collection not in gc.callbacks:
            gc.callbacks.append(_note_collection)
        self._caller = caller
        self._definition = definition
        self._entry = entry
        self._args = args
        self._kwargs = kwargs
        self._target = target
        self._context = context or caller.context_of(target)
        self._route: Route
        self._link: Link | None = None  # once it is open
        self._number = 0
        self._memo: Any = None
        self._over = False
        self._credit = 1

    def __del__(self) -> None:
        if not self._over and self._link is not None:  # its proxy would not end, and Python let it go all the same
            self._caller.dropped.append(self)

    @property
    def _what(self) -> str:
        return self._entry.name

    def _asked(self, op: int, value: Any) -> Any:
        """The value of the next message, and its context; opens the bookkeeping of the first."""
        context = self._context or self._caller.context()
        if self._link is None:
            target = self._target
            self._route = self._caller._route(self._definition, self._entry, self._args, self._kwargs, target, context)
            asked: tuple[Any, ...] = (target[1] if target else None, self._args, dict(self._kwargs) or None)
        else:
            asked = (op, value, self._credit if op == NEXT else 1)
        carried = self._caller.carried
        return asked if carried is None else (*asked, carried.values()), context

    def _encode(self, link: Link, value: Any, context: CallContext, blocked: int) -> tuple[Envelope, Any]:
        payload, buffers, memo = link.codec.encode_request(value, describe=_describe(self._definition, self._what))
        kind = Kind.CALL if self._link is None else Kind.DATA
        envelope = _envelope(link, kind, self._entry.method_id, payload, buffers, context, blocked)
        if kind is Kind.DATA:
            envelope = Envelope(
                kind, self._number, envelope.session, envelope.method, 0, envelope.deadline_ns, envelope.trace_id,
                envelope.blocked, envelope.chain, envelope.codec, payload, buffers,
            )  # fmt: skip
        return envelope, memo

    def _opened(self, link: Link, envelope: Envelope, memo: Any) -> None:
        self._link, self._number, self._memo = link, envelope.call_id, memo
        self._args, self._kwargs = (), {}
        link.stream_begins()

    def _unopened(self, link: Link) -> None:
        """The first step came to nothing, or will be tried elsewhere: a shard for one request is given back."""
        if self._link is None:
            self._caller.router.request_done(self._definition, self._route, link)

    def _answered(self, link: Link, op: int, outcome: Envelope, memo: Any) -> Any:
        """What the step came to. Raises what the generator raised."""
        if memo is not self._memo:
            memo = joined(self._memo, memo)  # what the generator changes in its arguments comes with any of its items
        if outcome.kind is not Kind.RESULT:
            self._finished()
        carried = self._caller.carried
        answer = self._caller._result(link, outcome, memo, self._what)
        if carried is not None:
            answer = carried.take_back(answer)
        match answer:
            case (int() as state, tuple() as items, value):
                if self._entry.ahead and op == NEXT and items:
                    size = len(outcome.payload) + sum(map(len, outcome.buffers))
                    fits = AHEAD_BYTES * len(items) // max(size, 1)
                    self._credit = max(1, min(2 * self._credit, fits, MAX_ITEMS))
                if state != GOES_ON:
                    self._finished()
                return state, items, value
        raise CallError(f"{self._what}: {link.peer.shard} sent what is no step of a generator")

    def _finished(self) -> None:
        """The owner has nothing open for us any more."""
        if not self._over and self._link is not None:
            self._over = True
            link, self._memo = self._link, None
            link.stream_ended()
            self._caller.router.request_done(self._definition, self._route, link)
        self._over = True

    def forget(self) -> None:
        """Nobody wants it any more; its owner is told. Any thread, also inside the garbage collector."""
        if self._over or self._link is None:
            self._over = True
            return
        if _collecting == threading.get_ident() or sys.is_finalizing():
            self._caller.dropped.append(self)  # a lock of ours may be held below us
            return
        link, number = self._link, self._number
        link.post(Envelope(kind=Kind.CANCEL, call_id=number))
        self._finished()

    @property
    def over(self) -> bool:
        """Whether its owner has ended it."""
        return self._over

    @property
    def may_wait(self) -> bool:
        """Whether the calling thread may wait for the owner now."""
        return not (_collecting == threading.get_ident() or sys.is_finalizing() or service_now(self._caller.desk))

    # -- blocking ----------------------------------------------------------------------------------------------

    def step(self, op: int = NEXT, value: Any = None) -> Any:
        """One step, waited for: (state, items, returned). Raises what the generator raises, or a CallError."""
        caller = self._caller
        value, context = self._asked(op, value)
        if service := service_now(caller.desk):
            raise WouldDeadlock(
                f"{self._what}: the thread that does {service} cannot wait for another shard", outcome="not started"
            )
        need_room()
        caller.before_call()
        with caller.counted:
            while True:
                link = self._link
                if link is None:
                    link = caller._known(self._definition, self._route, context)
                if link is None:
                    with caller.parked():
                        link = caller.router.link(self._definition, self._route, context)
                try:
                    envelope, memo = self._encode(link, value, context, caller.chains.blocked_by(context))
                    outcome = self._exchange(link, envelope, memo, context)
                finally:
                    self._unopened(link)
                if outcome is None:
                    continue
                if isinstance(outcome, ChannelClosed):
                    with caller.parked():
                        cause = caller.router.binder.why(link.peer)
                    self._lost(link, outcome, cause, context)
                return self._answered(link, op, outcome, memo)

    def _exchange(self, link: Link, envelope: Envelope, memo: Any, context: CallContext) -> Any:
        caller = self._caller
        parked = caller.mailbox is not None and caller.mailbox.holds()
        mailbox = caller.mailbox if parked else None
        waiting = link.hub.waiting(envelope.chain, context.session, mailbox, link.patience)
        waiting.asks = link
        caller.chains.enter(waiting)
        try:
            waiting.step_up()
            if not self._begin(link, envelope, waiting):
                waiting.step_back()
                return None
            if self._link is None:
                self._opened(link, envelope, memo)
            return caller._wait(link, waiting, envelope, self._what)
        except BaseException:
            waiting.step_back()
            raise
        finally:
            for late in caller.chains.leave(waiting):
                late.resubmit()

    def _begin(self, link: Link, envelope: Envelope, ticket: Any) -> bool:
        """False: the shard had gone before the stream was open, and another one is to be asked."""
        if self._link is None:
            return self._caller._begin(self._definition, self._route, link, envelope, ticket, self._what)
        try:
            link.begin(envelope, ticket)
        except ChannelClosed as closed:
            self._caller.router.lost(link)
            raise ShardLost(
                f"{self._what}: {link.peer.shard} is gone, and with it the generator that ran there",
                outcome="not started",
                remedy="call it again for a generator that begins anew",
            ) from closed
        except DeadlineExceeded:
            raise DeadlineExceeded(f"{self._what}: the deadline had passed", outcome="not started") from None
        self._caller.calls_out += 1
        return True

    def _lost(self, link: Link, closed: ChannelClosed, cause: str, context: CallContext) -> NoReturn:
        self._caller.router.told(self._route, context.session)
        _raise_lost(link, self._what, closed, cause)

    # -- awaiting ----------------------------------------------------------------------------------------------

    async def astep(self, op: int = NEXT, value: Any = None) -> Any:
        """The same, awaited. Cancelling the awaiting task cancels the step, and ends the generator."""
        from shardwright.guest._async_calls import bound, exchange, why  # who calls this has asyncio; others need not

        caller = self._caller
        value, context = self._asked(op, value)
        need_room()
        caller.before_call()
        with caller.counted:
            while True:
                link = self._link
                if link is None:
                    link = caller._known(self._definition, self._route, context)
                if link is None:
                    link = await bound(caller, self._definition, self._route, context)
                try:
                    envelope, memo = self._encode(link, value, context, context.blocked)
                    begin = partial(self._begin_awaited, link, envelope, memo)
                    outcome = await exchange(caller, link, envelope, begin, self._what, context)
                finally:
                    self._unopened(link)
                if outcome is None:
                    continue
                if isinstance(outcome, ChannelClosed):
                    self._lost(link, outcome, await why(caller, link), context)
                return self._answered(link, op, outcome, memo)

    def _begin_awaited(self, link: Link, envelope: Envelope, memo: Any, ticket: Ticket) -> bool:
        begun = self._begin(link, envelope, ticket)
        if begun and self._link is None:
            self._opened(link, envelope, memo)
        return begun
