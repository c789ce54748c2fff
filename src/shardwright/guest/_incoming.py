"""One call that came in: checked, run, and answered exactly once.

A little beyond 400 lines: what each of these steps owes the next stands in one place.
"""

from __future__ import annotations

import copy
import inspect
import sys
import time
from contextvars import Context, copy_context
from types import CoroutineType
from typing import TYPE_CHECKING, Any

import msgspec

from shardwright.errors import (
    CallError,
    CannotCross,
    DeadlineExceeded,
    MessageTooLarge,
    NotPermitted,
    Overloaded,
    ProtocolViolation,
    ShardwrightError,
    WouldDeadlock,
)
from shardwright.guest._carried import ON_ERROR
from shardwright.guest._chains import Depth
from shardwright.guest._context import CallContext, Life, current_call
from shardwright.guest._kept import SMALL_BYTES
from shardwright.guest._lines import serve_quickly
from shardwright.guest._link import Link
from shardwright.model.envelope import Envelope, Kind, PayloadCodec
from shardwright.model.shard import EntryKind, EntryPoint

if TYPE_CHECKING:
    import asyncio

    from shardwright.guest._responder import Responder


NOTHING = ("", "")
"""What a rehearsal asks for (``_rehearsal``): it goes every way that a call goes, and calls nothing."""


class IncomingCall:
    """One call to be answered, exactly once."""

    __slots__ = (
        "began",
        "cancelled",
        "carried",
        "context",
        "counted",
        "depth",
        "entry",
        "envelope",
        "is_async",
        "life",
        "link",
        "memo",
        "owner",
        "task",
    )

    def __init__(self, owner: Responder, link: Link, envelope: Envelope) -> None:
        self.owner = owner
        self.link = link
        self.envelope = envelope
        self.entry: EntryPoint | None = None
        self.is_async = False
        self.began = False  # whether user code was entered: from then on it is not true that nothing was started
        self.cancelled = False
        self.depth: Depth | None = None  # how many threads waited in its chain when it began; None until then
        self.counted = True  # among the coroutines that may run at once
        self.life = Life()
        self.task: asyncio.Task[None] | None = None
        self.memo: Any = None
        self.carried: dict[int, Any] | None = None  # context variables that came along, where they travel
        self.context: Context | None = None  # of a coroutine that a plain function gave

    def __repr__(self) -> str:
        return f"<IncomingCall {self.what} from {self.link.peer.shard}>"

    @property
    def what(self) -> str:
        """What is called, for people."""
        if self.entry is None:
            return "reading an attribute"
        return f"{self.owner.definition.component}.{self.entry.name}()"

    # -- the hub's thread --------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises NotPermitted, DeadlineExceeded."""
        envelope, link, owner = self.envelope, self.link, self.owner
        peer = link.peer
        if not peer.may_call or (peer.sessions is not None and envelope.session not in peer.sessions):
            raise NotPermitted(
                f"{peer.shard} may not call {owner.definition.component} for this session", outcome="not started"
            )
        if envelope.kind is Kind.CALL:
            entries = owner.definition.entry_points
            if envelope.method >= len(entries):
                raise NotPermitted(f"{owner.definition.component} has no entry point {envelope.method}")
            self.entry = entry = entries[envelope.method]
            self.is_async = entry.is_async
            if (
                envelope.method not in link.permitted
                and entry.kind is not EntryKind.METHOD
                and not owner.permits(peer).may_call(entry)
            ):
                raise self._closed(self.what)
            link.permitted.add(envelope.method)
        if envelope.deadline_ns and time.monotonic_ns() > envelope.deadline_ns:
            raise DeadlineExceeded(f"{self.what}: the deadline had passed", outcome="not started")

    def cancel(self) -> None:
        """The caller no longer waits. What has not begun will not; a coroutine is cancelled; other code runs on.

        Where that waits for another shard, that one is told.
        """
        self.cancelled = self.life.cancelled = True
        if self.task is not None:
            self.owner.loop.cancel(self.task)
        if self.depth is not None:
            self.owner.chains.cancel(self.envelope.chain, self.depth)

    def stuck(self) -> WouldDeadlock:
        return WouldDeadlock(
            f"{self.what} came back to an event loop that awaits this very call and keeps its shard busy meanwhile",
            outcome="not started",
            remedy="make the loop with asyncio.run() or asyncio.new_event_loop(), without a loop of another kind",
        )

    def forget(self) -> None:
        """It needs no answer any more. May be called again."""
        self.owner.forget(self.link, self.envelope.call_id)

    def refuse(self, error: BaseException) -> None:
        """Answer without having run anything."""
        self._send(Kind.ERROR, *self.link.codec.encode_error(error, self.memo))

    def refuse_unwanted(self) -> None:
        """It was cancelled before it began. Who was told to cancel it by a caller of its own waits for the outcome yet."""
        self.refuse(CallError(f"{self.what}: its caller was cancelled", outcome="not started"))

    def resubmit(self) -> None:
        """It was given to a waiting thread that left before it could run it."""
        try:
            self.owner.mailbox.submit(self.run)
        except Overloaded as error:
            self.refuse(error)

    # -- a thread that has the baton ---------------------------------------------------------------------------

    def new_context(self) -> Context:
        """What its coroutine runs in."""
        return self.context or Context()

    def run(self) -> None:
        """Run to the end and answer. Never raises."""
        if self.cancelled:
            self.refuse_unwanted()
            return
        Context().run(self._run)
        self.owner.after_call()  # what the call held is let go by now

    def _run(self) -> None:
        try:
            result = self._enter()
        except BaseException as error:
            self._failed(error)
        else:
            self.ended(result, None)

    def ended(self, result: Any, error: BaseException | None) -> None:
        """Its function returned that, or raised."""
        if error is not None:
            self._failed(error)
            return
        if isinstance(result, CoroutineType):
            # a function that was not seen to be a coroutine function, but is one
            self.context = copy_context()
            try:
                self.owner.loop.start(self, result)
            except BaseException as failure:
                result.close()
                self._failed(failure)
            return
        self._returned(result)

    async def run_async(self, coroutine: Any = None) -> None:
        """The same on the shard's event loop; the task's context is fresh."""
        try:
            result = await (self._enter() if coroutine is None else coroutine)
        except BaseException as error:
            self._failed(error)
        else:
            self._returned(result)

    def _decoded(self) -> Any:
        """What was asked, as a value; sets the context and the memo. Raises what hinders it."""
        envelope = self.envelope
        if envelope.deadline_ns and time.monotonic_ns() > envelope.deadline_ns:
            raise DeadlineExceeded(f"{self.what}: the deadline passed in the queue", outcome="not started")
        self.set_context()
        codec = self.link.codec_of(envelope.codec)
        if codec is None:
            raise NotPermitted(f"{self.what}: the codec {envelope.codec.name} is not permitted on this edge")
        try:
            value, self.memo = codec.decode_request(envelope.payload, envelope.buffers)
        except ProtocolViolation as violation:
            raise CallError(f"{self.what}: the request cannot be read: {violation}", outcome="not started") from None
        except CannotCross as error:
            raise CannotCross(f"{self.what}: {error.message}", outcome="not started", remedy=error.remedy) from None
        self.owner.calls_in += 1
        self.depth = self.owner.chains.depth(envelope.chain)
        if envelope.buffers or len(envelope.payload) >= SMALL_BYTES:  # it has been read
            self.envelope = msgspec.structs.replace(envelope, payload=b"", buffers=())
            self.owner.kept.give(self)
        return value

    def _enter(self) -> Any:
        owner = self.owner
        value = self._decoded()
        if value == NOTHING:
            owner.calls_in -= 1
            return self._rehearsed()
        if self.envelope.kind is Kind.GET:
            return self._read(value)
        target, args, kwargs = self._arguments(value)
        entry = self.entry
        assert entry is not None
        if target is not None:
            method = self._method_of(owner.objects.get(target), entry)
            self.began = True
            return method(*args, **kwargs)
        if entry.kind is EntryKind.APPLICATION:
            raise NotPermitted(f"{self.what} is an application and cannot be called", outcome="not started")
        if entry.kind is EntryKind.METHOD:
            if not owner.permits(self.link.peer).may_call(entry):
                raise self._closed(self.what)
            self._refuse_unbound(entry)
        function = owner.unpatched(self.link.peer, entry) or owner.resolve(entry.module, entry.qualname)
        if owner.desk is not None:
            serve_quickly(owner, self.link, entry)
        self.began = True
        return function(*args, **kwargs)

    def _rehearsed(self) -> None:
        entry, owner = self.entry, self.owner
        if entry is not None and entry.kind is EntryKind.FUNCTION:
            owner.resolve(entry.module, entry.qualname)
            if owner.desk is not None:
                serve_quickly(owner, self.link, entry)

    def set_context(self) -> None:
        """What user code of this call is told of it, on the calling thread or task."""
        envelope = self.envelope
        current_call.set(
            CallContext(
                session=envelope.session,
                session_name=self.owner.session_name(envelope.session),
                chain=envelope.chain,
                deadline_ns=envelope.deadline_ns,
                trace_id=bytes(envelope.trace_id),
                blocked=envelope.blocked,
                life=self.life,
            )
        )

    def _method_of(self, thing: object, entry: EntryPoint) -> Any:
        """The method that the entry point names, of an object that has it from the entry point's own class."""
        cls, _, name = entry.qualname.rpartition(".")
        if entry.kind is not EntryKind.METHOD or not isinstance(thing, self.owner.resolve(entry.module, cls)):
            raise NotPermitted(f"{self.what} is no method of a {type(thing).__name__}", outcome="not started")
        original = self.owner.unpatched(self.link.peer, entry)
        return getattr(thing, name) if original is None else original.__get__(thing, type(thing))

    def _refuse_unbound(self, entry: EntryPoint) -> None:
        """A plain method runs on an object of its class that lives here, never on what a caller sends for ``self``."""
        cls, _, name = entry.qualname.rpartition(".")
        found = inspect.getattr_static(self.owner.resolve(entry.module, cls), name, None)
        if not isinstance(found, (staticmethod, classmethod)):
            raise NotPermitted(f"{self.what} is a method and needs its object", outcome="not started")

    def _arguments(self, value: Any) -> tuple[int | None, tuple[Any, ...], dict[str, Any]]:
        if (
            type(value) is tuple
            and len(value) == 3
            and value[0] is None
            and type(value[1]) is tuple
            and value[2] is None
        ):
            return None, value[1], {}  # the usual case
        match value:
            case (int() | None as target, tuple() as args, None):
                return target, args, {}
            case (int() | None as target, tuple() as args, dict() as kwargs) if all(type(k) is str for k in kwargs):
                return target, args, kwargs
            case (target, args, kwargs, carried) if self.owner.carried is not None:
                self.carried = self.owner.carried.adopt(carried)
                return self._arguments((target, args, kwargs))
        raise CallError(f"{self.what}: the request is not a call", outcome="not started")

    def _closed(self, what: str) -> NotPermitted:
        peer, component = self.link.peer, self.owner.definition.component
        return NotPermitted(
            f"{peer.shard} may not use {what}: the plan saw no such use in the code of {peer.component}",
            outcome="not started",
            remedy=f"say its name in the code of {peer.component}, such as `from ... import ...`, or offer it as a function "
            f"of {component}",
        )

    def _read(self, value: Any) -> Any:
        match value:
            case (owner, name, carried) if self.owner.carried is not None:
                self.carried = self.owner.carried.adopt(carried)
                value = owner, name
        permits = self.owner.permits(self.link.peer)
        match value:
            # an identifier: a dotted name would lead through attributes of attributes to what nobody exports
            case (str() | int() as owner, str() as name) if name.isidentifier() and not name.startswith("__"):
                if isinstance(owner, int):
                    thing = self.owner.objects.get(owner)
                    if not permits.may_read_attribute(name) and inspect.getattr_static(thing, name, self) is not self:
                        raise self._closed(f"{type(thing).__name__}.{name}")
                    self.began = True  # a property is user code
                    found = getattr(thing, name)
                elif owner in self.owner._modules:
                    if not permits.may_read(owner, name):
                        raise self._closed(f"{owner}.{name}")
                    self.began = True
                    found = self.owner.resolve(owner, name)
                else:
                    raise NotPermitted(f"{owner} is not a module of {self.owner.definition.component}")
                if callable(found) and not isinstance(found, type) and self.owner.objects is not None:
                    raise CannotCross(f"{name!r} is a {type(found).__name__} and stays in its shard", outcome="failed")
                if self.owner.is_secret(found):
                    raise NotPermitted(
                        f"{name!r} holds a secret of {self.owner.definition.component}",
                        outcome="failed",
                        remedy="offer a function that uses it, and keep it where it is",
                    )
                return found
        raise NotPermitted("only plain attributes can be read", outcome="not started")

    # -- the answer --------------------------------------------------------------------------------------------

    def _returned(self, result: Any) -> None:
        if self.carried is not None and self.owner.carried is not None:
            result = (result, self.owner.carried.changes(self.carried))
        try:
            payload, buffers = self.link.codec.encode_reply(result, self.memo)
        except CannotCross as error:
            self._failed(CannotCross(f"{self.what}: {error.message}", outcome="failed", remedy=error.remedy))
        except BaseException as error:
            self._failed(error)
        else:
            try:
                self._send(Kind.RESULT, payload, buffers)
            except MessageTooLarge as error:
                self._failed(MessageTooLarge(f"the result of {self.what}: {error.message}", outcome="failed"))

    def _failed(self, error: BaseException) -> None:
        if not self.began and isinstance(error, ShardwrightError):
            self.owner.count_refusal(error)
        if self.life.orphaned and _is_cancellation(error):
            error = CallError(f"{self.what}: its session ended while it ran", outcome="failed")
        try:
            if self.began and isinstance(error, CallError) and error.outcome == "not started":
                error = _ran(error)
            if self.carried is not None and self.owner.carried is not None:
                error.__dict__[ON_ERROR] = self.owner.carried.changes(self.carried)
            try:
                payload, buffers = self.link.codec.encode_error(error, self.memo)
            finally:
                error.__dict__.pop(ON_ERROR, None)
        except BaseException as second:
            payload, buffers = self.link.codec.encode_error(
                CallError(
                    f"{self.what} raised {type(error).__name__}, which cannot be sent: {second}", outcome="failed"
                ),
                None,
            )
        try:
            self._send(Kind.ERROR, payload, buffers)
        except MessageTooLarge as large:
            what = f"{self.what} raised {type(error).__name__}, which cannot be sent: {large.message}"
            self._send(Kind.ERROR, *self.link.codec.encode_error(CallError(what, outcome="failed"), None))

    def _send(self, kind: Kind, payload: Any, buffers: Any) -> None:
        self.life.over = True
        self.owner.before_answer()
        try:
            self._post(kind, payload, buffers)
        except MessageTooLarge:
            raise  # nothing was sent: another answer follows
        except BaseException:
            self.forget()
            raise
        else:
            self.forget()  # not before: a shard that is told to finish what runs must know that this does

    def _post(self, kind: Kind, payload: Any, buffers: Any) -> None:
        self.link.post(
            Envelope(
                kind=kind,
                call_id=self.envelope.call_id,
                session=self.envelope.session,
                trace_id=self.envelope.trace_id,
                chain=self.envelope.chain,
                codec=self.codec_id,
                payload=payload,
                buffers=buffers,
            )
        )

    @property
    def codec_id(self) -> PayloadCodec:
        """The codec of its answer."""
        return self.link.codec_id


def _is_cancellation(error: BaseException) -> bool:
    """Without asyncio nobody raises one."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and isinstance(error, asyncio.CancelledError)


def _ran(error: CallError) -> CallError:
    """The error of a call that user code made, and did not catch, as the outcome of the call that ran that code.

    A copy: user code may keep the original, of which it stays true that nothing was started.
    """
    same = copy.copy(error)
    same.outcome = "failed"
    same.__cause__, same.__context__ = error.__cause__, error.__context__
    same.__suppress_context__ = error.__suppress_context__
    return same
