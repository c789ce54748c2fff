"""Calls of the gateway: functions with their arguments still in a request, and exchanges with whole applications.

The gateway reaches what its routes name, and nothing else. It sends plain data that is converted here, where the user's
annotations are; it gets plain data back, ready to be sent. How an application wants to be called (ASGI 3, ASGI 2, WSGI) is
found by looking at it, on a thread of the shard, when it is first needed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct

from shardwright.errors import (
    CallError,
    ChannelClosed,
    DeadlineExceeded,
    NotPermitted,
    Overloaded,
    ProtocolViolation,
    ShardwrightError,
)
from shardwright.guest._asgi import AsgiExchange
from shardwright.guest._exchange import returned_with
from shardwright.guest._frames import beyond
from shardwright.guest._incoming import IncomingCall
from shardwright.guest._link import Link
from shardwright.guest._responder import Responder
from shardwright.guest._web_convert import BadRequest, Reading
from shardwright.guest._web_lifespan import Lifespan
from shardwright.guest._web_manner import Application, Manner, NoApplication, manner_of
from shardwright.guest._web_messages import (
    Describe,
    Described,
    Failure,
    FunctionReply,
    FunctionRequest,
    Open,
    decode_asked,
    encode_web,
)
from shardwright.guest._web_schema import describe
from shardwright.guest._web_stream import Stream
from shardwright.guest._web_values import encode_result
from shardwright.guest._wsgi import WsgiExchange
from shardwright.model.envelope import Envelope, Kind, PayloadCodec
from shardwright.model.ids import MethodId
from shardwright.model.scope import ScopeKind, StateKind
from shardwright.model.shard import GATEWAY_COMPONENT, EntryKind, RouteTarget

MAX_WEBSOCKETS = (
    32 * 1024
)  # of one shard; they are idle for most of their life, and so are not counted as calls that wait
GOING_AWAY = 1012  # the close code of a server that restarts
_MESSAGE_CHARS = 1000
log = logging.getLogger("shardwright.web")


class Web:
    """What one shard shows to the gateway."""

    def __init__(self, responder: Responder, routes: Sequence[RouteTarget]) -> None:
        self.responder = responder
        definition = responder.definition
        self.routed = frozenset(route.method_id for route in routes if route.component == definition.component)
        self._readings: dict[MethodId, tuple[object, Reading]] = {}
        self._applications: dict[MethodId, Application] = {}
        self.websockets: set[WebCall] = set()
        # whether other shards may run the same application
        self.many = definition.state is StateKind.NONE or definition.scope.kind is not ScopeKind.SHARED
        # how modules of the shard are found by libraries, where they are not in ``sys.modules``
        self.visible: Callable[[], AbstractContextManager[None]] = nullcontext
        responder.open_web = self.admit
        responder.hear_web = self.hear

    def __repr__(self) -> str:
        return f"<Web of {self.responder.definition.component}, {len(self.routed)} routed>"

    @property
    def serves_applications(self) -> bool:
        """Whether routes lead to an application here."""
        return any(
            entry.kind is EntryKind.APPLICATION and entry.method_id in self.routed
            for entry in self.responder.definition.entry_points
        )

    # -- the hub's thread --------------------------------------------------------------------------------------

    def admit(self, link: Link, envelope: Envelope) -> IncomingCall:
        """The call that a CALL of codec WEB asks for. Raises ProtocolViolation."""
        if self.responder.find(link, envelope.call_id) is not None:
            raise ProtocolViolation(f"call {envelope.call_id} runs already")
        if envelope.buffers:
            raise ProtocolViolation("a call of codec WEB with buffers")
        return WebCall(self, link, envelope)

    def hear(self, link: Link, envelope: Envelope) -> None:
        """A DATA or CREDIT came; one for an exchange that has ended is late, and nobody's. Raises ProtocolViolation."""
        call = self.responder.find(link, envelope.call_id)
        if call is None:
            return
        stream = call.stream if isinstance(call, WebCall) else None
        if stream is None:
            raise ProtocolViolation(f"{envelope.kind.name} for a call that is no exchange")
        stream.heard(envelope)

    def manner(self, method: MethodId) -> Manner | None:
        """How that application is called, if it has been looked at."""
        known = self._applications.get(method)
        return known.manner if known is not None else None

    def _exchanges(self) -> list[Any]:
        return [call for call in self.responder.calls() if isinstance(call, WebCall) and call.stream is not None]

    # -- a thread with the baton -------------------------------------------------------------------------------

    def look(self) -> None:
        """Look at the applications that routes lead to, so that what then comes goes where it belongs at once."""
        for entry in self.responder.definition.entry_points:
            if entry.kind is EntryKind.APPLICATION and entry.method_id in self.routed:
                try:
                    self.application(entry.method_id)
                except Exception:
                    pass  # it is raised again where it is called

    def reading(self, method: MethodId) -> tuple[Callable[..., Any], Reading]:
        """A function and how its arguments are read. Raises TypeError."""
        entry = self.responder.definition.entry_points[method]
        function = self.responder.resolve(entry.module, entry.qualname)
        known = self._readings.get(method)
        if known is None or known[0] is not function:
            with self.visible():
                known = function, Reading(function, entry.name)
            self._readings[method] = known
        return function, known[1]

    def application(self, method: MethodId) -> Application:
        """Raises NoApplication."""
        entry = self.responder.definition.entry_points[method]
        served = self.responder.resolve(entry.module, entry.qualname)
        known = self._applications.get(method)
        if known is None or known.served is not served:
            manner = manner_of(served, f"{self.responder.definition.component}.{entry.name}")
            known = Application(served, manner, None)
            if manner is not Manner.WSGI:
                version = "2.0" if manner is Manner.ASGI2 else "3.0"
                known = Application(served, manner, Lifespan(known.asgi, version=version))
            self._applications[method] = known
        return known

    # -- the end -----------------------------------------------------------------------------------------------

    def going_away(self) -> None:
        """The shard is to end: applications hear that their WebSocket clients go. Any thread."""
        for call in self._exchanges():
            call.stream.leave(GOING_AWAY)

    def shutdown(self, timeout_s: float) -> None:
        """Tell applications of the end, and wait for them; not with the baton, and not on the event loop."""
        lifespans = [known.lifespan for known in self._applications.values() if known.lifespan is not None]
        if lifespans:
            self.responder.loop.run(partial(_shut_down, lifespans), timeout_s)


async def _shut_down(lifespans: Sequence[Lifespan]) -> None:
    await asyncio.gather(*(lifespan.shutdown() for lifespan in lifespans))


class WebCall(IncomingCall):
    """One call of the gateway. ``stream`` is there when it is an exchange with an application."""

    __slots__ = ("asked", "stream", "web")

    def __init__(self, web: Web, link: Link, envelope: Envelope) -> None:
        super().__init__(web.responder, link, envelope)
        self.web = web
        self.asked: FunctionRequest | Describe | Open | None = None
        self.stream: Stream | None = None

    # -- the hub's thread --------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises NotPermitted, DeadlineExceeded, ProtocolViolation."""
        super().check()
        entry = self.entry
        assert entry is not None
        if self.link.peer.component != GATEWAY_COMPONENT or entry.method_id not in self.web.routed:
            raise NotPermitted(f"no route leads {self.link.peer.shard} to {self.what}", outcome="not started")
        self.asked = decode_asked(self.envelope.payload)
        if isinstance(self.asked, Open) is not (entry.kind is EntryKind.APPLICATION):
            raise NotPermitted(f"{self.what} is a {entry.kind} and cannot be asked so", outcome="not started")
        if isinstance(self.asked, Open):
            self.stream = Stream(self.link, self.envelope, self.asked)
            self.is_async = self.web.manner(entry.method_id) in (Manner.ASGI3, Manner.ASGI2)
            self.counted = self.asked.type == "http"
            if not self.counted:
                if len(self.web.websockets) >= MAX_WEBSOCKETS:
                    raise Overloaded(f"{self.what} has {MAX_WEBSOCKETS} WebSockets already")
                self.web.websockets.add(self)
        elif isinstance(self.asked, Describe):
            self.is_async = False

    def cancel(self) -> None:
        """The client is gone. An application hears of it, and may end by itself; a function's coroutine is cancelled."""
        if self.stream is None:
            super().cancel()
            return
        self.cancelled = True  # one that has not begun will not
        self.stream.go()

    def refuse_unwanted(self) -> None:
        """Nobody waits for it: its client is gone."""
        self.forget()

    def forget(self) -> None:
        super().forget()
        self.web.websockets.discard(self)

    # -- a thread that has the baton, or the event loop --------------------------------------------------------

    async def run_async(self, coroutine: Any = None) -> None:
        if coroutine is not None:
            self.set_context()  # that of the thread on which it was made does not come along
        await super().run_async(coroutine)

    def _enter(self) -> Any:
        envelope, entry = self.envelope, self.entry
        assert entry is not None
        if envelope.deadline_ns and time.monotonic_ns() > envelope.deadline_ns:
            raise DeadlineExceeded(f"{self.what}: the deadline passed in the queue", outcome="not started")
        self.set_context()
        self.owner.calls_in += 1
        match self.asked:
            case FunctionRequest() as request:
                return self._call(request)
            case Describe(path, method):
                reading = self.web.reading(entry.method_id)[1]
                with self.web.visible():
                    operation = describe(reading, path, method, str(self.owner.definition.component))
                return Described(msgspec.json.encode(operation))
        return self._serve()

    def _call(self, request: FunctionRequest) -> Any:
        assert self.entry is not None
        function, reading = self.web.reading(self.entry.method_id)
        try:
            args, kwargs = reading.read(request)
        except BadRequest as bad:
            # an answer, not an error: but where a coroutine is awaited, it must be one
            return _as_coroutine(bad.reply) if self.is_async else bad.reply
        self.began = True
        return function(*args, **kwargs)

    def _serve(self) -> Any:
        assert self.entry is not None and self.stream is not None
        application = self.web.application(self.entry.method_id)
        if application.manner is not Manner.WSGI:
            return self._serve_asgi(application, self.stream)
        if self.stream.opened.type != "http":
            raise NoApplication(f"{self.what} is a WSGI application and serves no WebSocket", outcome="not started")
        self.began = True
        WsgiExchange(self.stream, self.owner.mailbox, many=self.web.many).run(application.served)
        return _Last([])

    async def _serve_asgi(self, application: Application, stream: Stream) -> _Last:
        assert application.lifespan is not None
        lifespan = application.lifespan
        await lifespan.startup()
        self.began = True
        version = "2.0" if application.manner is Manner.ASGI2 else "3.0"
        return _Last(await AsgiExchange(stream, lifespan.state, version=version).run(application.asgi))

    # -- the answer --------------------------------------------------------------------------------------------

    def refuse(self, error: BaseException) -> None:
        if isinstance(error, ProtocolViolation):
            raise error  # no answer: what cannot be read ends the link
        self._answer(Kind.ERROR, encode_web(failure_of(error)))

    def _returned(self, result: Any) -> None:
        try:
            if isinstance(result, _Last):
                payload = returned_with(result.pieces)
            elif isinstance(result, (FunctionReply, Described)):
                payload = encode_web(result)
            else:
                assert self.entry is not None
                payload = encode_web(encode_result(result, self.entry.name))
            self._answer(Kind.RESULT, payload)
        except BaseException as error:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        failure = failure_of(error)
        if not self.began and isinstance(error, ShardwrightError):
            self.owner.count_refusal(error)
        elif failure.status is None and not self.cancelled and not isinstance(error, asyncio.CancelledError):
            log.error(self._mishap(), exc_info=(type(error), error, beyond(error.__traceback__)))
        if self.began and failure.outcome == "not started":
            failure = msgspec.structs.replace(failure, outcome="failed")
        self._answer(Kind.ERROR, encode_web(failure))

    def _mishap(self) -> str:
        if self.stream is None:
            return f"Exception in {self.what}"
        assert self.entry is not None
        wsgi = self.web.manner(self.entry.method_id) is Manner.WSGI
        return f"Exception in {'WSGI' if wsgi else 'ASGI'} application"

    def _answer(self, kind: Kind, payload: bytes) -> None:
        try:
            self._send(kind, payload, ())
        except ChannelClosed:
            pass
        except ShardwrightError as error:  # it is too large
            self._send(Kind.ERROR, encode_web(failure_of(error)), ())

    @property
    def codec_id(self) -> PayloadCodec:
        return PayloadCodec.WEB


class _Last(Struct, frozen=True):
    """An application has returned; what it sent last."""

    pieces: list[bytes]


async def _as_coroutine(reply: FunctionReply) -> FunctionReply:
    return reply


def failure_of(error: BaseException) -> Failure:
    """What the gateway hears of an exception: its kind and words, for the log, and the status that it asks for."""
    status = None
    for name in ("status_code", "http_status"):
        asked = getattr(error, name, None)
        if type(asked) is int and 400 <= asked <= 499:
            status = asked
            break
    try:
        message = str(error)
    except Exception:
        message = "(it cannot be shown)"
    return Failure(
        type=type(error).__name__[:_MESSAGE_CHARS],
        message=_sendable(message),
        code=error.code if isinstance(error, ShardwrightError) else "",
        outcome=error.outcome if isinstance(error, CallError) else "failed",
        remedy=_sendable(error.remedy) if isinstance(error, ShardwrightError) else "",
        status=status,
    )


def _sendable(text: str) -> str:
    """As much of it as is worth sending, as text that can be."""
    return text[:_MESSAGE_CHARS].encode("utf-8", "backslashreplace").decode()
