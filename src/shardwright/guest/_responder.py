"""Incoming calls: who may call what, whose turn it is, and the reply.

The hub's thread admits or refuses; user code runs on the mailbox's threads, on the thread that waits for the call's own
chain, or, for coroutines, on the shard's event loop (``_incoming``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from shardwright.errors import (
    Overloaded,
    ProtocolViolation,
    ShardwrightError,
    WouldDeadlock,
)
from shardwright.guest._carried import Carried
from shardwright.guest._chains import Chains
from shardwright.guest._context import Life
from shardwright.guest._incoming import IncomingCall
from shardwright.guest._kept import SMALL_BYTES, KeptBytes, most_bytes
from shardwright.guest._link import Link
from shardwright.guest._mailbox import Mailbox
from shardwright.guest._objects import FLOATING, HOLDERS, Held, Objects
from shardwright.guest._permits import Permits
from shardwright.guest._shard_loop import ShardLoop
from shardwright.guest._streams import Streams, StreamStep
from shardwright.model.endpoint import Peer
from shardwright.model.envelope import Envelope, Kind, PayloadCodec
from shardwright.model.ids import SessionNumber
from shardwright.model.shard import EntryPoint, ShardDefinition
from shardwright.transport import unpack

if TYPE_CHECKING:
    from shardwright.transport.shm import Desk

Resolve = Callable[[str, str], Any]
"""(module, qualified name) -> the object, in the owner's own modules."""


class Responder:
    """Answers the calls that reach one shard."""

    def __init__(
        self,
        definition: ShardDefinition,
        *,
        mailbox: Mailbox,
        loop: ShardLoop,
        chains: Chains,
        objects: Objects,
        resolve: Resolve,
        session_name: Callable[[SessionNumber], str],
    ) -> None:
        self.definition = definition
        self.mailbox = mailbox
        self.loop = loop
        self.chains = chains
        self.objects = objects
        self.resolve = resolve
        self.session_name = session_name
        self.calls_in = 0
        self.desk: Desk | None = None  # where calls are answered the quick way
        self.after_call: Callable[[], None] = lambda: None
        self.before_answer: Callable[[], None] = lambda: None
        self.let_go: Callable[[list[Held]], None] = lambda dropped: None
        self.quick = False  # whether functions are called as their modules have them, so that C can find them as well
        self.unpatched: Callable[[Peer, EntryPoint], Any] = lambda peer, entry: None  # what a test's own call runs
        self.open_web: Callable[[Link, Envelope], IncomingCall] = partial(IncomingCall, self)
        self.hear_web: Callable[[Link, Envelope], None] = _unheard
        self.idle_since_s = time.monotonic()  # when the last call ended
        self.refused: dict[str, int] = {}  # by the code of the error
        self._running: dict[tuple[int, int], IncomingCall] = {}
        self._generators = frozenset(entry.method_id for entry in definition.entry_points if entry.is_generator)
        self.streams = Streams(self)
        self.carried: Carried | None = None  # context variables that travel
        self._modules = frozenset(definition.code.modules)
        self.kept = KeptBytes(definition.component, most_bytes(definition.limits.ceiling.memory_bytes))
        self.permits: Callable[[Peer], Permits] = lambda peer: Permits(None)
        self.is_secret: Callable[[object], bool] = lambda value: False

    @property
    def all_calls_in(self) -> int:
        """How many calls were run here so far."""
        return self.calls_in if self.desk is None else self.calls_in + self.desk.calls_in

    @property
    def idle_since(self) -> float:
        """When the last call ended, in seconds of the monotonic clock."""
        return self.idle_since_s if self.desk is None else max(self.idle_since_s, self.desk.idle_since_ns / 1e9)

    @property
    def busy(self) -> bool:
        """Whether calls run or wait here."""
        return bool(self.running)

    @property
    def running(self) -> int:
        """Calls that run or wait here."""
        return len(self._running) if self.desk is None else len(self._running) + self.desk.serving

    def sessions(self) -> set[SessionNumber]:
        """The sessions whose calls run or wait here."""
        slow = {call.envelope.session for call in list(self._running.values())}
        if self.desk is None:
            return slow
        return slow.union(SessionNumber(session) for _, _, session, _, _ in self.desk.answering())

    def calls(self) -> list[IncomingCall]:
        """The calls that run or wait here."""
        return list(self._running.values())

    def find(self, link: Link, call_id: int) -> IncomingCall | None:
        """The call of that number, if it runs or waits here."""
        return self._running.get((id(link), call_id))

    def on_message(self, link: Link, envelope: Envelope) -> None:
        kind = envelope.kind
        if kind is Kind.CALL or kind is Kind.GET:
            self._admit(link, envelope)
        elif kind is Kind.CANCEL:
            call = self._running.get((id(link), envelope.call_id))
            if call is not None:
                call.cancel()
            else:
                self.streams.cancel(link, envelope.call_id)
                self._cancel_quick(lambda its, call_id, session: its is link and call_id == envelope.call_id)
        elif kind is Kind.DATA and envelope.codec is not PayloadCodec.WEB:
            exchange = self._running.get((id(link), envelope.call_id))
            if exchange is not None and exchange.envelope.codec is PayloadCodec.WEB:
                raise ProtocolViolation("DATA of a generator for an exchange")
            self._admit(link, envelope)
        elif kind is Kind.DATA or kind is Kind.CREDIT:
            self.hear_web(link, envelope)
        elif kind is Kind.ADDREF:
            self._count(envelope, lambda object_id, count: self.objects.add(object_id, FLOATING, count))
        elif kind is Kind.RELEASE:
            self._count(
                envelope, lambda object_id, count: self.let_go(self.objects.release(object_id, id(link), count))
            )

    @staticmethod
    def _count(envelope: Envelope, change: Callable[[int, int], None]) -> None:
        if len(envelope.payload) == HOLDERS.size:
            change(*HOLDERS.unpack(envelope.payload))

    def link_closed(self, link: Link) -> None:
        """The caller is gone: what it asked for is cancelled, what it held is released."""
        for key, call in list(self._running.items()):
            if key[0] == id(link):
                call.cancel()
        self._cancel_quick(lambda its, call_id, session: its is link)
        self.streams.link_closed(link)
        self.let_go(self.objects.holder_gone(id(link)))

    def session_ended(self, session: SessionNumber) -> None:
        """Nobody waits for what still runs for that session."""
        for call in list(self._running.values()):
            if call.envelope.session == session:
                call.life.orphaned = True
                call.cancel()
        self._cancel_quick(lambda link, call_id, its: its == session, orphaned=True)
        self.streams.session_ended(session)

    def _cancel_quick(self, unwanted: Callable[[Link, int, int], bool], *, orphaned: bool = False) -> None:
        """As ``IncomingCall.cancel``, of calls that are answered the quick way: plain code, which runs on."""
        if self.desk is None or not self.desk.serving:
            return
        for link, call_id, session, life, chain in self.desk.answering():
            if life is not None and unwanted(link, call_id, session):
                life.cancelled = True
                life.orphaned = life.orphaned or orphaned
                self.chains.cancel(chain)  # nobody waited on its chain when it began, or it had not gone this way

    def _admit(self, link: Link, envelope: Envelope) -> None:
        key = envelope.call_id
        if envelope.codec is PayloadCodec.WEB and envelope.kind is Kind.CALL:
            call = self.open_web(link, envelope)
        elif envelope.kind is Kind.DATA or (envelope.method in self._generators and envelope.kind is Kind.CALL):
            call = step = StreamStep(self, link, envelope)
            key = step.key
        else:
            call = IncomingCall(self, link, envelope)
        try:
            call.check()
            if envelope.buffers or len(envelope.payload) >= SMALL_BYTES:
                self.kept.take(call, link.peer.shard, sum(map(len, envelope.buffers), len(envelope.payload)))
            self._running[id(link), key] = call
            if call.is_async:
                if self.chains.stuck(envelope.chain):
                    raise call.stuck()
                if self.chains.holds_up(envelope.chain, envelope.blocked):
                    raise WouldDeadlock(
                        f"{call.what} is a coroutine of an event loop that is blocked waiting for this very call",
                        outcome="not started",
                        remedy="await the call that leads here, or put both parts into one component",
                    )
                if call.counted and self.loop.in_flight >= self.definition.queue:
                    raise Overloaded(f"{self.definition.component}: {self.loop.in_flight} coroutines already run")
                self.loop.start(call)
            elif not self.chains.offer(envelope.chain, call, envelope.blocked):
                if self.chains.stuck(envelope.chain):
                    raise call.stuck()
                self.mailbox.submit(call.run)
        except ShardwrightError as error:
            self.count_refusal(error)
            call.refuse(error)

    def answer(
        self, link: Link, frame: bytes, memo: Any, life: Life, began: bool, result: Any, error: BaseException | None
    ) -> None:
        """A call that was taken the quick way turns out to be unusual. On its thread, in its context, with the baton.

        ``began``: its function was called, and returned or raised that. Otherwise nothing was, and all of it is still to do.
        """
        envelope = unpack(frame)
        call = IncomingCall(self, link, envelope)
        try:
            call.check()
        except ShardwrightError as refusal:
            if not began:
                self.count_refusal(refusal)
                call.refuse(refusal)
                return
        self._running[id(link), envelope.call_id] = call
        if not began:
            call._run()
        else:
            call.memo, call.life, call.began = memo, life, True
            call.depth, call.cancelled = self.chains.depth(envelope.chain), life.cancelled
            call.ended(result, error)

    def count_refusal(self, error: ShardwrightError) -> None:
        self.refused[error.code] = self.refused.get(error.code, 0) + 1

    def forget(self, link: Link, call_id: int) -> None:
        call = self._running.pop((id(link), call_id), None)
        if call is not None:
            self.kept.give(call)
        self.idle_since_s = time.monotonic()

    def forget_step(self, step: StreamStep) -> None:
        """As ``forget``, of a step of a stream."""
        if self._running.pop((id(step.link), step.key), None) is not None:
            self.kept.give(step)
        self.idle_since_s = time.monotonic()


def _unheard(link: Link, envelope: Envelope) -> None:
    raise ProtocolViolation(f"{envelope.kind.name} where nothing is open")
