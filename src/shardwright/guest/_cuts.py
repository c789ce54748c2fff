"""Calls of functions that were cut out of this shard's own component.

They go to shards that have the same modules and serve nothing but such calls; nothing comes back from there, so the caller
keeps its baton while it waits: what was serial stays serial. Arguments are pickled with aligned memos (``KinCodec``), for
both shards are of one trust domain. A call runs here instead when its arguments cannot go there, or when there is nobody
to ask yet (while code is imported): always before anything was begun there, so nothing runs twice.

In the loops that the plan names, calls of later rounds begin before their turn. What they were begun with is kept as the
very bytes of the request, and a call takes an answer only if its own request is the same to the byte; whatever changed
meanwhile makes it a call like any other. The answer is read when the call asks for it, into the caller's own objects.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

from msgspec import Struct, field

from shardwright.errors import (
    CallError,
    CannotCross,
    ChannelClosed,
    DeadlineExceeded,
    NodeError,
    ProtocolViolation,
    ShardLost,
    ShardwrightError,
)
from shardwright.guest._caller import Caller
from shardwright.guest._context import NOWHERE, CallContext, new_identifier
from shardwright.guest._cut_code import Cutting, stub_code
from shardwright.guest._frames import beyond
from shardwright.guest._link import Link
from shardwright.guest._service import service_of_this_thread
from shardwright.model.cut import Cut, CutFunction, Loop
from shardwright.model.envelope import Envelope, Kind
from shardwright.model.ids import ComponentName
from shardwright.model.shard import ShardDefinition, ShardPlan
from shardwright.transport.kin import executed, was_there

MANY_FALLBACKS = 32  # calls that could not go: then it is looked whether the function is worth asking about
_RETRIES = 3
NOBODY = "nobody to ask yet"


class CutCounts(Struct):
    """What became of the calls of one cut function. ``ahead`` of the remote ones were begun before their turn."""

    calls: int = 0
    remote: int = 0
    ahead: int = 0
    local: int = 0
    begun: int = 0  # before their turn, wanted or not
    failed: int = 0  # after they were begun there: lost, or a result that does not cross
    why_local: dict[str, int] = field(default_factory=dict)
    uncut: str = ""  # why the function is no longer cut


class _Ticket:
    """The outcome of one call, for whoever waits for it."""

    __slots__ = ("_lock", "ahead", "link", "number", "outcome")

    def __init__(self, link: Link) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.link = link
        self.ahead = False
        self.number = 0
        self.outcome: Envelope | ChannelClosed | None = None

    def deliver(self, outcome: Envelope | ChannelClosed) -> None:
        self.outcome = outcome
        self._lock.release()

    def wait(self, deadline_ns: int) -> Envelope | ChannelClosed | None:
        """None: not within the deadline."""
        left = -1.0 if not deadline_ns else max(0.0, (deadline_ns - time.monotonic_ns()) / 1e9)
        if self.outcome is None and not self._lock.acquire(timeout=left):
            return None
        return self.outcome


class CutCall:
    """One cut function: what its stub calls."""

    __slots__ = ("away", "counts", "cut", "definition", "function", "original", "owner", "stayed", "stub", "swapped")

    def __init__(self, owner: Cuts, cut: Cut, function: CutFunction, swapped: FunctionType) -> None:
        self.owner, self.cut, self.function, self.swapped = owner, cut, function, swapped
        self.definition: ShardDefinition = owner.plan.definition(cut.part)
        self.counts = owner.counts.setdefault(function.id, CutCounts())
        self.original = FunctionType(
            swapped.__code__, swapped.__globals__, swapped.__name__, swapped.__defaults__, swapped.__closure__
        )
        self.original.__kwdefaults__ = swapped.__kwdefaults__
        self.original.__qualname__ = swapped.__qualname__
        self.away = owner.active
        self.stayed = 0  # calls that the stub let run here at once, for there was nobody to ask
        self.stub: CodeType = stub_code(swapped.__code__, self, cut.part, self)
        swapped.__code__ = self.stub

    def __repr__(self) -> str:
        return f"<cut {self.function.id} to {self.cut.part}>"

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.counts.calls += 1
        sent, named = self.given(args, kwargs)
        try:
            ticket, context, memo = self.owner.begin(self, sent, named)
        except _Local as local:
            return self._here(args, kwargs, local.reason)
        try:
            return self.owner.finish(self, ticket, context, memo, sent, named)
        except _Local as local:
            return self._here(args, kwargs, local.reason)
        except BaseException as error:
            error.__traceback__ = beyond(error.__traceback__)
            raise

    def note_stayed(self) -> None:
        """Count the calls that the stub let run here."""
        stayed, self.stayed = self.stayed, 0
        if stayed:
            counts = self.counts
            counts.calls += stayed
            counts.local += stayed
            counts.why_local[NOBODY] = counts.why_local.get(NOBODY, 0) + stayed

    def given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Without what are the function's own defaults: those it has there as well, sentinels among them."""
        swapped = self.swapped
        defaults = swapped.__defaults__
        if defaults and len(args) <= self.stub.co_argcount:
            end = len(args)
            first = self.stub.co_argcount - len(defaults)
            while end > first and args[end - 1] is defaults[end - 1 - first]:
                end -= 1
            args = args[:end]
        if kwargs and swapped.__kwdefaults__:
            own = swapped.__kwdefaults__
            kwargs = {name: value for name, value in kwargs.items() if name not in own or own[name] is not value}
        return args, kwargs

    def _here(self, args: tuple[Any, ...], kwargs: dict[str, Any], reason: str) -> Any:
        counts = self.counts
        counts.local += 1
        counts.why_local[reason] = counts.why_local.get(reason, 0) + 1
        if (
            counts.local >= MANY_FALLBACKS
            and self.owner.active
            and not self.owner.suspended()
            and counts.local > counts.calls // 2
            and not counts.uncut
        ):
            counts.uncut = f"{counts.local} of {counts.calls} calls could not go: {reason}"
            self.swapped.__code__ = self.original.__code__
        return self.original(*args, **kwargs)


class _Local(Exception):
    """The call is to run here; ``reason`` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


_Key = tuple[str, int, bytes, tuple[bytes, ...]]


def _key(call: CutCall, payload: Any, buffers: Any) -> _Key:
    """What tells requests apart."""
    return call.cut.part, call.function.method_id, payload, tuple([bytes(item) for item in buffers])


class Cuts:
    """All cuts of one component, in one of its shards. ``active`` from when its node hears it."""

    def __init__(self, plan: ShardPlan, component: ComponentName, caller: Callable[[], Caller]) -> None:
        self.plan = plan
        self.caller = caller
        self._active = False
        self.suspended: Callable[[], bool] = (
            bool  # False, unless a test has patched something, which shards would not see
        )
        self.counts: dict[str, CutCounts] = {}
        self._mine = [cut for cut in plan.cuts if cut.component == component]
        self._of: dict[str, Cut] = {function.id: cut for cut in self._mine for function in cut.functions}
        self.parts = frozenset(cut.part for cut in self._mine)
        self._loops: list[Loop] = [loop for cut in self._mine for loop in cut.loops]
        self._windows: list[int] = [cut.window for cut in self._mine for _ in cut.loops]
        self._by_code: dict[int, CutCall] = {}
        self._begun: dict[_Key, deque[_Ticket]] = {}
        self._mutex = threading.Lock()

    def __repr__(self) -> str:
        return f"<Cuts {', '.join(self._of) or 'none'}>"

    def __bool__(self) -> bool:
        return bool(self._of)

    @property
    def active(self) -> bool:
        """Whether there is somebody to ask."""
        return self._active

    @active.setter
    def active(self, active: bool) -> None:
        self._active = active
        for call in list(self._by_code.values()):
            call.away = active
            call.note_stayed()

    def install(self) -> None:
        """From now on modules that are imported get their stubs."""
        functions = [function for cut in self._mine for function in cut.functions]
        modules = [module for cut in self._mine for module in self.plan.definition(cut.part).code.modules]
        Cutting(functions, self._loops, self._replace, self.ahead, modules, executed, was_there).install()

    def _replace(self, function: CutFunction, found: FunctionType) -> None:
        if id(found.__code__) in self._by_code:
            return
        call = CutCall(self, self._of[function.id], function, found)
        self._by_code[id(call.stub)] = call

    # -- one call ----------------------------------------------------------------------------------------------

    def begin(self, call: CutCall, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[_Ticket, CallContext, Any]:
        """Begin a call, or find the one that was begun for it. Raises _Local when it is to run here."""
        if not self.active or self.caller().forked or service_of_this_thread():
            raise _Local(NOBODY)
        if self.suspended():
            raise _Local("a test has patched something")
        try:
            context = self.caller().context()
            link = self._link(call, context)
            payload, buffers, memo = link.codec.encode_request((None, args, kwargs or None))
        except (CannotCross, RecursionError) as error:
            raise _Local(getattr(error, "message", "too deep")) from None
        except (CallError, NodeError) as error:
            raise _Local(error.message) from None
        if self._begun:
            key = _key(call, payload, buffers)
            with self._mutex:
                waiting = self._begun.get(key)
                ticket = waiting.popleft() if waiting else None
                if waiting is not None and not waiting:
                    del self._begun[key]
            if ticket is not None:
                call.counts.ahead += 1
                return ticket, context, memo
        return self._send(call, link, context, payload, buffers), context, memo

    def _link(self, call: CutCall, context: CallContext) -> Link:
        router = self.caller().router
        route = router.route(call.definition, context.session, None)
        return router.known(call.definition, route, context) or router.link(call.definition, route, context)

    def _send(self, call: CutCall, link: Link, context: CallContext, payload: Any, buffers: Any) -> _Ticket:
        for _ in range(_RETRIES):
            ticket = _Ticket(link)
            ticket.number = link.next_id()
            envelope = Envelope(
                kind=Kind.CALL, call_id=ticket.number, session=context.session, method=call.function.method_id,
                deadline_ns=context.deadline_ns, trace_id=context.trace_id if context is not NOWHERE else os.urandom(16),
                blocked=self.caller().chains.blocked_by(context),
                chain=context.chain or new_identifier(), codec=link.codec_id, payload=payload, buffers=buffers,
            )  # fmt: skip
            try:
                link.begin(envelope, ticket)
            except ChannelClosed:
                link.close()
                self.caller().router.lost(link)
                try:
                    link = self._link(call, context)
                except ShardwrightError as error:
                    raise _Local(error.message) from None
                continue
            return ticket
        raise _Local("its shards end as soon as they are asked")

    def finish(
        self, call: CutCall, ticket: _Ticket, context: CallContext, memo: Any, args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        """Wait for the outcome, and give it or raise it."""
        try:
            outcome = ticket.wait(context.deadline_ns)
        except BaseException:
            ticket.link.abandon(ticket.number)
            raise
        what = call.function.id
        if outcome is None:
            ticket.link.abandon(ticket.number)
            raise DeadlineExceeded(f"{what}: no reply within the deadline")
        counts = call.counts
        if isinstance(outcome, ChannelClosed):
            if ticket.ahead:  # it was lost before its turn: nobody has asked for it yet
                again, context, memo = self.begin(call, args, kwargs)
                return self.finish(call, again, context, memo, args, kwargs)
            counts.failed += 1
            raise ShardLost(f"{what}: {ticket.link.peer.shard} ended while it was running this call")
        codec = ticket.link.codec
        try:
            if outcome.kind is Kind.RESULT:
                counts.remote += 1
                return codec.decode_reply(outcome.payload, outcome.buffers, memo)
            error = codec.decode_error(outcome.payload, outcome.buffers, memo)
        except ProtocolViolation as violation:
            raise CallError(f"{what}: {ticket.link.peer.shard} sent what cannot be read: {violation}") from violation
        if isinstance(error, CallError) and error.outcome == "not started":
            raise _Local(error.message)
        if isinstance(error, CannotCross):
            counts.failed += 1
        else:
            counts.remote += 1
        raise error

    # -- loops -------------------------------------------------------------------------------------------------

    def ahead(self, iterable: Any, number: int, bind: Callable[[Any], Any]) -> Any:
        """What a loop iterates over, while calls for its later rounds run. Only of sequences, which looking does not change."""
        if not self.active or self.suspended() or type(iterable) not in (list, tuple, range) or len(iterable) < 2:
            return iterable
        return self._ahead(iterable, self._windows[number], bind)

    def _ahead(self, items: Any, window: int, bind: Callable[[Any], Any]) -> Iterator[Any]:
        begun: deque[tuple[_Key, _Ticket]] = deque()
        place = following = 0
        try:
            for item in items:
                while following < min(len(items), place + window):
                    self._begin_round(bind, items[following], begun)
                    following += 1
                yield item
                place += 1
        finally:
            for key, ticket in begun:
                self._drop(key, ticket)

    def _begin_round(self, bind: Callable[[Any], Any], item: Any, begun: deque[tuple[_Key, _Ticket]]) -> None:
        try:
            wanted = bind(item)
        except Exception:
            return  # the loop's own turn will raise it, if it comes to that
        for function, args, kwargs in wanted:
            bound = getattr(function, "__self__", None)
            if bound is not None:
                function, args = getattr(function, "__func__", None), (bound, *args)
            call = self._by_code.get(id(getattr(function, "__code__", None)))
            if call is None:
                continue
            call_args, call_kwargs = self._as_stub(call, args, kwargs)
            try:
                context = self.caller().context()
                link = self._link(call, context)
                payload, buffers, _ = link.codec.encode_request((None, call_args, call_kwargs or None))
                ticket = self._send(call, link, context, payload, buffers)
            except (_Local, ShardwrightError, RecursionError):
                continue
            key = _key(call, payload, buffers)
            ticket.ahead = True
            call.counts.begun += 1
            with self._mutex:
                self._begun.setdefault(key, deque()).append(ticket)
            begun.append((key, ticket))
        while begun and begun[0][1].outcome is not None and begun[0][0] not in self._begun:
            begun.popleft()

    @staticmethod
    def _as_stub(
        call: CutCall, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments as the stub will see them: positional ones by position."""
        code = call.stub
        names = code.co_varnames[: code.co_argcount]
        taken, named = list(args), dict(kwargs)
        for name in names[len(args) :]:
            if name not in named:
                break
            taken.append(named.pop(name))
        return call.given(tuple(taken), named)

    def _drop(self, key: _Key, ticket: _Ticket) -> None:
        """Nobody will want it."""
        with self._mutex:
            waiting = self._begun.get(key)
            if waiting is None or ticket not in waiting:
                return
            waiting.remove(ticket)
            if not waiting:
                del self._begun[key]
        if ticket.outcome is None:
            ticket.link.abandon(ticket.number)
