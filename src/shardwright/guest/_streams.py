"""Generators of this shard that others iterate over: one *stream* for each, driven step by step by its consumer.

A CALL of an entry point that is a generator opens a stream under its call id, and makes the first step. Further steps are
DATA messages of that id: what to do (go on, send a value, throw an exception, close), and how many items are wanted at most.
Each is answered by one RESULT or ERROR of that id, as a call is; a stream whose answer says that it is over, or is an ERROR,
exists no more. CANCEL ends a stream in whatever state it is. So nothing is ever made that was not asked for, and a consumer
that stops asking costs its shard a suspended generator, of which there are ``MAX_STREAMS`` at most.

A generator runs in one context for all its life, so what it sets there is there after its next ``yield``; of the call
that steps it, it is told session, deadline and chain anew each time.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from contextvars import Context
from types import CoroutineType, NoneType
from typing import TYPE_CHECKING, Any

from shardwright.errors import CallError, CannotCross, MessageTooLarge, NotPermitted, Overloaded
from shardwright.guest._context import CallContext, Life, current_call
from shardwright.guest._incoming import IncomingCall
from shardwright.guest._objects import Held
from shardwright.model.envelope import Envelope, Kind
from shardwright.model.ids import SessionNumber
from shardwright.transport.codec import joined

if TYPE_CHECKING:
    from shardwright.guest._link import Link
    from shardwright.guest._responder import Responder

NEXT, SEND, THROW, CLOSE = range(4)
"""What a step does: the first part of a DATA's value."""
GOES_ON, OVER = range(2)
"""What became of the stream: the first part of an answer's value; items follow, and what the generator returned."""
MAX_STREAMS = 4096  # open in one shard, half of them for one caller
MAX_ITEMS = 64  # of one answer, where the generator may run ahead of its consumer

_serials = itertools.count(1)


class OpenStream:
    """One generator and who iterates over it."""

    __slots__ = ("after", "context", "dropped", "generator", "link", "made", "memo", "number", "session", "step")

    def __init__(self, link: Link, number: int, session: SessionNumber) -> None:
        self.link = link
        self.number = number
        self.session = session
        self.context = Context()
        self.generator: Any = None
        self.memo: Any = None  # of the arguments: what the generator changes in them goes back with its items
        self.step: StreamStep | None = None  # the one that runs or waits now
        self.dropped = False  # it is to end after that
        self.made: deque[Any] = deque()  # items that did not fit the last answer
        self.after: BaseException | tuple[Any] | None = None  # how the generator ended, once those are taken

    def __repr__(self) -> str:
        return f"<stream {self.number} to {self.link.peer.shard}, {'steps' if self.step is not None else 'waits'}>"


class Streams:
    """The open streams of one shard."""

    def __init__(self, owner: Responder) -> None:
        self._owner = owner
        self._open: dict[tuple[int, int], OpenStream] = {}
        self._mutex = threading.Lock()

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, step: StreamStep) -> OpenStream:
        """A stream of that call. Raises Overloaded, NotPermitted."""
        link, number = step.link, step.envelope.call_id
        with self._mutex:
            if (id(link), number) in self._open:
                raise NotPermitted(f"{step.what}: call {number} is an open stream", outcome="not started")
            shard = link.peer.shard
            mine = sum(stream.link.peer.shard == shard for stream in self._open.values()) if self._open else 0
            if len(self._open) >= MAX_STREAMS or mine >= MAX_STREAMS // 2:
                raise Overloaded(
                    f"{step.what}: {len(self._open)} generators are open here, {mine} of them for {shard}",
                    remedy="close generators that are not iterated to their end",
                )
            stream = self._open[id(link), number] = OpenStream(link, number, step.envelope.session)
            stream.step = step
        return stream

    def take(self, step: StreamStep) -> OpenStream:
        """The stream that a DATA steps. Raises CallError, NotPermitted."""
        with self._mutex:
            stream = self._open.get((id(step.link), step.envelope.call_id))
            if stream is None:
                raise CallError(
                    f"{self._owner.definition.component} has no such stream open: it, or its session, has ended",
                    outcome="not started",
                )
            if stream.step is not None:
                raise NotPermitted("the stream has not answered its last step", outcome="not started")
            stream.step = step
        return stream

    def answers(self, stream: OpenStream, step: StreamStep, *, over: bool) -> bool:
        """A step is about to be answered. Whether its stream goes on, and may be stepped again from now on."""
        with self._mutex:
            if over or stream.dropped:
                return False
            stream.step = None
            return True

    def resumes(self, stream: OpenStream, step: StreamStep) -> None:
        """That answer could not be sent, and another one follows."""
        with self._mutex:
            stream.step = step

    def stepped(self, stream: OpenStream, step: StreamStep, *, over: bool) -> None:
        """A step has its answer, or needs none. May be called again."""
        with self._mutex:
            if stream.step is not step:
                return
            stream.step = None
            if not (over or stream.dropped):
                return
            self._open.pop((id(stream.link), stream.number), None)
        self._end([stream])

    def cancel(self, link: Link, number: int) -> None:
        """Its consumer does not want it any more. Unknown ones have ended by themselves."""
        stream = self._open.get((id(link), number))
        if stream is not None:
            self._drop([stream])

    def link_closed(self, link: Link) -> None:
        if self._open:
            self._drop([stream for stream in list(self._open.values()) if stream.link is link])

    def session_ended(self, session: SessionNumber) -> None:
        if self._open:
            self._drop([stream for stream in list(self._open.values()) if stream.session == session])

    def _drop(self, streams: list[OpenStream]) -> None:
        idle, steps = [], []
        with self._mutex:
            for stream in streams:
                stream.dropped = True
                if stream.step is not None:
                    steps.append(stream.step)
                elif self._open.pop((id(stream.link), stream.number), None) is not None:
                    idle.append(stream)
        for step in steps:
            step.cancel()
        self._end(idle)

    def _end(self, streams: list[OpenStream]) -> None:
        """Let suspended generators run what they have in ``finally``, soon."""
        self._owner.let_go([Held(stream, stream.session) for stream in streams if stream.generator is not None])

    def close(self, stream: OpenStream) -> None:
        """Close its generator, on a thread that has the baton."""
        generator, stream.generator = stream.generator, None
        life = Life()
        life.over = True
        context = CallContext(session=stream.session, session_name=self._owner.session_name(stream.session), life=life)
        stream.memo = None
        stream.made.clear()
        if hasattr(generator, "aclose"):
            self._owner.loop.begin(lambda: _aclose(generator, context), stream.context)
        elif hasattr(generator, "close"):
            stream.context.run(current_call.set, context)
            stream.context.run(generator.close)


async def _aclose(generator: Any, context: CallContext) -> None:
    current_call.set(context)
    await generator.aclose()


class StreamStep(IncomingCall):
    """One step of a stream; the first of them is its CALL."""

    __slots__ = ("credit", "key", "over", "stream")

    def __init__(self, owner: Responder, link: Link, envelope: Envelope) -> None:
        super().__init__(owner, link, envelope)
        self.stream: OpenStream | None = None
        self.key = -next(_serials)  # among the running calls: the call id is that of the whole stream
        self.over = False
        self.credit = 1

    @property
    def what(self) -> str:
        return "a step of a generator" if self.entry is None else super().what

    # -- the hub's thread --------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises NotPermitted, DeadlineExceeded, Overloaded, CallError."""
        super().check()
        if self.envelope.kind is Kind.CALL:
            self.stream = self.owner.streams.enter(self)
        else:
            self.stream = self.owner.streams.take(self)
            self.is_async = hasattr(self.stream.generator, "__anext__")

    def cancel(self) -> None:
        """The consumer no longer waits, and does not come back."""
        if self.stream is not None:
            self.stream.dropped = True
        super().cancel()

    def refuse(self, error: BaseException) -> None:
        self.over = True  # its consumer takes an error for the end
        super().refuse(error)

    def forget(self) -> None:
        self.owner.forget_step(self)
        if self.stream is not None:
            self.owner.streams.stepped(self.stream, self, over=self.over)

    # -- a thread that has the baton, or the event loop --------------------------------------------------------

    def new_context(self) -> Context:
        assert self.stream is not None
        return self.stream.context

    def run(self) -> None:
        if self.cancelled:
            self.refuse_unwanted()
            return
        context = self.new_context()
        try:
            result = context.run(self._enter)
        except BaseException as error:
            context.copy().run(self._failed, error)
        else:
            if isinstance(result, CoroutineType):  # it was not seen to be asynchronous
                try:
                    self.owner.loop.start(self, result)
                except BaseException as error:
                    result.close()
                    context.copy().run(self._failed, error)
            else:
                # not in the context itself: while a large answer waits to be taken, the next step may be here already
                context.copy().run(self._returned, result)
        self.owner.after_call()

    async def run_async(self, coroutine: Any = None) -> None:
        try:
            result = self._enter() if coroutine is None else coroutine
            if isinstance(result, CoroutineType):
                result = await result
        except BaseException as error:
            self._failed(error)
        else:
            self._returned(result)

    def _enter(self) -> Any:
        stream = self.stream
        assert stream is not None
        op, value = NEXT, None
        if self.envelope.kind is Kind.CALL:
            made = super()._enter()
            stream.memo = self.memo
            stream.generator = self._streamable(made)
        else:
            op, value = self._asked(self._decoded())
            self.memo = joined(stream.memo, self.memo)
            self.began = True
        advance = self._advance_async if hasattr(stream.generator, "__anext__") else self._advance
        return advance(stream, op, value)

    def _asked(self, value: Any) -> tuple[int, Any]:
        match value:
            case (op, sent, credit, values) if self.owner.carried is not None:
                self.carried = self.owner.carried.adopt(values)
                return self._asked((op, sent, credit))
            case (int() as op, sent, int() as credit) if NEXT <= op <= CLOSE and 0 < credit <= MAX_ITEMS:
                if op == SEND or isinstance(sent, BaseException if op == THROW else NoneType):
                    self.credit = credit
                    return op, sent
        raise CallError(f"{self.what}: the request is no step of a stream", outcome="not started")

    def _streamable(self, made: Any) -> Any:
        if hasattr(made, "__next__") or hasattr(made, "__anext__"):
            return made
        if isinstance(made, CoroutineType):
            made.close()
        raise CannotCross(
            f"{self.what} is a generator by its code, and gave a {type(made).__name__}",
            outcome="failed",
            remedy="let every path of it give a generator, or none",
        )

    def _advance(self, stream: OpenStream, op: int, value: Any) -> Any:
        generator = stream.generator
        try:
            if op == NEXT:
                while self._wants_more(stream):
                    stream.made.append(next(generator))
            else:
                stream.made.clear()  # what it made ahead is not what the consumer asks for now
                if op == CLOSE and not hasattr(generator, "throw"):
                    raise StopIteration
                if op == CLOSE:
                    value = GeneratorExit()  # one that goes on all the same is to be told so where it is closed
                stream.made.append(generator.send(value) if op == SEND else generator.throw(value))
        except StopIteration as stop:
            stream.after = (stop.value,)
        except BaseException as error:
            stream.after = (None,) if op == CLOSE and isinstance(error, GeneratorExit) else error
        return self._answer(stream)

    async def _advance_async(self, stream: OpenStream, op: int, value: Any) -> Any:
        generator = stream.generator
        try:
            if op == NEXT:
                while self._wants_more(stream):
                    stream.made.append(await anext(generator))
            else:
                stream.made.clear()
                if op == CLOSE and not hasattr(generator, "athrow"):
                    raise StopAsyncIteration
                if op == CLOSE:
                    value = GeneratorExit()
                stream.made.append(await (generator.asend(value) if op == SEND else generator.athrow(value)))
        except StopAsyncIteration:
            stream.after = (None,)
        except BaseException as error:
            stream.after = (None,) if op == CLOSE and isinstance(error, GeneratorExit) else error
        return self._answer(stream)

    def _wants_more(self, stream: OpenStream) -> bool:
        made = stream.made
        return stream.after is None and len(made) < self.credit and not (made and self.cancelled)

    def _answer(self, stream: OpenStream) -> Any:
        made, after = stream.made, stream.after
        items = tuple(made.popleft() for _ in range(min(self.credit, len(made))))
        if after is None or made or (items and isinstance(after, BaseException)):
            return GOES_ON, items, None
        self._left()
        if isinstance(after, BaseException):
            raise after
        return OVER, items, after[0]

    def _left(self) -> None:
        """The generator is at its end: nothing is left to close."""
        assert self.stream is not None
        self.over = True
        self.stream.generator = None

    # -- the answer --------------------------------------------------------------------------------------------

    def _returned(self, result: Any) -> None:
        """Where all items together are too large for one message, fewer go."""
        state, items, value = result
        stream = self.stream
        assert stream is not None
        while len(items) > 1:
            try:
                answer: Any = (state, items, value)
                if self.carried is not None and self.owner.carried is not None:
                    answer = (answer, self.owner.carried.changes(self.carried))
                self._send(Kind.RESULT, *self.link.codec.encode_reply(answer, self.memo))
                return
            except MessageTooLarge:
                if state == OVER:
                    stream.after, self.over = (value,), False
                half = len(items) // 2
                stream.made.extendleft(reversed(items[half:]))
                state, items, value = GOES_ON, items[:half], None
            except BaseException:
                break  # what does not fit is told below
        super()._returned((state, items, value))

    def _failed(self, error: BaseException) -> None:
        self.over = True
        super()._failed(error)

    def _send(self, kind: Kind, payload: Any, buffers: Any) -> None:
        """The consumer may have its answer, and be here with its next step, before this goes on."""
        self.life.over = True
        self.owner.before_answer()
        stream, streams = self.stream, self.owner.streams
        goes_on = stream is not None and streams.answers(stream, self, over=self.over)
        try:
            self._post(kind, payload, buffers)
        except MessageTooLarge:
            if goes_on and stream is not None:
                streams.resumes(stream, self)
            raise  # nothing was sent: another answer follows
        except BaseException:
            self.forget()
            raise
        else:
            self.forget()
