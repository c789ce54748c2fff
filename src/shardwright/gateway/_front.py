"""The front: an ASGI application that answers requests by calling shards.

It decides which route takes a request, in which session, whether it is let in, and what a client is told when something
fails. Bodies and values of the application pass through as bytes; nothing of them is decoded here.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from shardwright.errors import NotPermitted, ShardwrightError
from shardwright.gateway._admission import Admission
from shardwright.gateway._backend import Backend, GatewaySettings
from shardwright.gateway._front_asgi import (
    Aborted,
    Receive,
    Scope,
    Send,
    respond,
    respond_problem,
    trace_of,
)
from shardwright.gateway._front_exchange import HttpPump, WebSocketPump, deny
from shardwright.gateway._front_functions import Functions, content_type_of
from shardwright.gateway._front_log import FrontLog
from shardwright.gateway._front_own import RAW_BASE, OwnPages
from shardwright.gateway._grpc import CALL, CHECK, GrpcRequest, answer_grpc, timeout_s
from shardwright.gateway._limits import Limits
from shardwright.gateway._problems import Problem
from shardwright.gateway._routes import Match, RouteTable
from shardwright.gateway._scrape import Scrape
from shardwright.gateway._sessions import Seal, Sessions, Visit, without_session
from shardwright.guest import CONTINUE, FunctionReply
from shardwright.model.shard import EntryKind, RouteTarget
from shardwright.monitoring import GatewayMonitor

__all__ = ["Front"]

_GRPC = frozenset({CALL, CHECK})
_log = logging.getLogger("shardwright.gateway")


class _Asked(Struct, frozen=True):
    """One HTTP request, as the server hands it over, and what its head says at once."""

    scope: Scope
    receive: Receive
    send: Send
    headers: Mapping[bytes, bytes]
    trace_id: bytes

    @property
    def bodyless(self) -> bool:
        """Whether the head alone says that no body follows: then nobody needs to wait for it."""
        if b"transfer-encoding" in self.headers:
            return False
        length = self.headers.get(b"content-length")
        return length == b"0" if length is not None else self.scope["http_version"] != "2"


class Front:
    """The application. ``token`` opens the pages about the node to clients off loopback; empty: to none."""

    def __init__(
        self,
        settings: GatewaySettings,
        backend: Backend,
        *,
        monitor: GatewayMonitor | None = None,
        token: str = "",
        now_s: Callable[[], float] = time.time,
    ) -> None:
        gateway = settings.gateway
        self.limits = Limits.of(gateway)
        self.routes = RouteTable(settings.routes)
        self.monitor = monitor or GatewayMonitor(route.path for route in settings.routes)
        self.admission = Admission(gateway.queue)
        self.log = FrontLog(access=gateway.access_log)
        self.draining = False
        self._backend = backend
        self._sessions = Sessions(
            Seal(settings.cookie_key, settings.app, gateway.session_idle_s, now_s),
            backend,
            lasting_s=gateway.session_idle_s,
            secure=gateway.secure,
        )
        self._own = OwnPages(
            settings, backend, self.routes, lambda: self.draining, Scrape(backend, self.monitor), token
        )
        self._unrouted = self._own.elsewhere | _GRPC
        self.functions = Functions(
            self.routes, backend, self._sessions, self.limits, self.monitor, self.log, self.admission, self._elsewhere
        )
        self._behind: set[asyncio.Task[None]] = set()  # exchanges whose response is out and whose application goes on

    def __repr__(self) -> str:
        return f"<Front of {len(self.routes.routes)} routes>"

    @property
    def behind(self) -> frozenset[asyncio.Task[None]]:
        """What applications still do after their responses; a graceful stop waits for it."""
        return frozenset(self._behind)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            raise ValueError(f"a scope of type {scope['type']!r}")

    def _elsewhere(self, raw_path: bytes) -> bool:
        """Whether routes may not be asked for it."""
        return raw_path.startswith(RAW_BASE) or raw_path in self._unrouted

    # -- HTTP ------------------------------------------------------------------------------------------------------

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        trace_id = trace_of(headers.get(b"traceparent"))
        raw_path: bytes = scope["raw_path"]
        if self._own.maybe(raw_path) and await self._own.answer(scope, headers, send, trace_id):
            return
        if raw_path in _GRPC and headers.get(b"content-type", b"").startswith(b"application/grpc"):
            await self._grpc(raw_path, _Asked(scope, receive, send, headers, trace_id))
            return
        method: str = scope["method"]
        pattern: str | None = None
        meter = None
        status: int | None = None
        begun_s = time.monotonic() if self.log.access else 0.0
        try:
            match = self.routes.match(method, raw_path)
            pattern = match.route.path
            meter = self.monitor.request(pattern, method)
            asked = _Asked(scope, receive, send, headers, trace_id)
            if match.route.kind is EntryKind.APPLICATION:
                status = await self._application(asked, match)
            else:
                status = await self._function(asked, match)
        except (ShardwrightError, Problem) as error:
            problem = self.log.problem(error, pattern, trace_id)
            status = problem.status
            await respond_problem(send, problem, trace_id)
        except Aborted:
            status = 502
            raise
        except Exception as defect:
            status = 500
            self.log.defect(defect, pattern, trace_id)
            raise Aborted from defect
        finally:
            (meter or self.monitor.request(pattern, method)).ended(status)
            if self.log.access:
                self.log.request(method, pattern, status, begun_s, trace_id)

    async def _function(self, asked: _Asked, match: Match) -> int:
        route, headers, functions = match.route, asked.headers, self.functions
        body = b"" if asked.bodyless else await self._body(asked)
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        request = functions.request(asked.scope["method"], match, asked.scope["query_string"], body, content_type)
        visit = await self._sessions.enter(route.needs_session, headers)
        limit_s = functions.limit_s(route)
        reply = await functions.call(route, visit, request, trace_id=asked.trace_id, limit_s=limit_s)
        await respond(asked.send, reply.status, reply.body, content_type_of(reply), asked.trace_id, visit.headers)
        return reply.status

    async def _grpc(self, raw_path: bytes, asked: _Asked) -> None:
        scope, headers, send, trace_id = asked.scope, asked.headers, asked.send, asked.trace_id

        async def call(wanted: GrpcRequest) -> tuple[FunctionReply, tuple[tuple[bytes, bytes], ...]]:
            raw, _, query = wanted.target.encode().partition(b"?")
            match = self.routes.match(wanted.method, raw)
            if match.route.kind is EntryKind.APPLICATION:
                raise Problem(404, "No function takes this path.")
            meter = self.monitor.request(match.route.path, wanted.method)
            status = None
            begun_s = time.monotonic()
            try:
                functions = self.functions
                request = functions.request(wanted.method, match, query, wanted.body, wanted.content_type)
                visit = await self._sessions.enter(match.route.needs_session, headers)
                limit_s = timeout_s(headers.get(b"grpc-timeout"), functions.limit_s(match.route))
                reply = await functions.call(match.route, visit, request, trace_id=trace_id, limit_s=limit_s)
                status = reply.status
                return reply, visit.headers
            except (ShardwrightError, Problem) as error:
                problem = self.log.problem(error, match.route.path, trace_id)
                status = problem.status
                raise problem from error
            finally:
                meter.ended(status)
                if self.log.access:
                    self.log.request(wanted.method, match.route.path, status, begun_s, trace_id)

        if scope["http_version"] != "2" or scope["method"] != "POST":
            await respond_problem(send, Problem(405, "gRPC is POST over HTTP/2."), trace_id)
            return
        await answer_grpc(
            raw_path,
            headers,
            asked.receive,
            send,
            trace_id,
            max_bytes=self.limits.body_bytes,
            body_timeout_s=self.limits.body_timeout_s,
            serving=self._own.serving,
            call=call,
        )

    async def _body(self, asked: _Asked) -> bytes:
        """The whole body of a call of a function."""
        self._check_length(asked.headers)
        parts: list[bytes] = []
        length = 0
        while True:
            try:
                async with asyncio.timeout(self.limits.body_timeout_s):
                    event = await asked.receive()
            except TimeoutError:
                raise Problem(408, "The body did not arrive in time.", ((b"connection", b"close"),)) from None
            if event["type"] != "http.request":
                raise asyncio.CancelledError
            parts.append(event.get("body", b""))
            length += len(parts[-1])
            if length > self.limits.body_bytes:
                raise _too_large()
            if not event.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    def _check_length(self, headers: Mapping[bytes, bytes]) -> None:
        given = headers.get(b"content-length", b"0")
        if not given.isdigit():
            raise Problem(400, "The content-length is no number.")
        if len(given) > 18 or int(given) > self.limits.body_bytes:
            raise _too_large()

    # -- exchanges -------------------------------------------------------------------------------------------------

    async def _application(self, asked: _Asked, match: Match) -> int:
        route, scope, headers = match.route, asked.scope, asked.headers
        self._check_length(headers)
        visit = await self._sessions.enter(route.needs_session, headers)
        now_s = time.monotonic()
        gate = self.functions.admit(route, now_s, now_s + (route.timeout_s or math.inf))
        inside = True

        def answered(by_application: bool = True) -> None:
            nonlocal inside
            if inside:
                inside = False
                gate.left(time.monotonic(), answered=by_application)

        pump = None
        try:
            shown = _shown(scope, match)
            expecting = headers.get(b"expect", b"").lower() == b"100-continue" and scope["http_version"] == "1.1"
            if expecting:
                shown["extensions"] = {**scope.get("extensions", {}), CONTINUE: {}}
            exchange, visit = await self._open(route, visit, shown, asked.trace_id)
            pump = HttpPump(
                exchange,
                asked.receive,
                asked.send,
                self.limits,
                asked.trace_id,
                visit.headers,
                answered,
                expecting,
                route.timeout_s,
            )
            try:
                await pump.run(not asked.bodyless)
            finally:
                if pump.complete and not pump.returned and pump.status < 500:
                    self._keep(pump.finish())
                else:
                    exchange.cancel()
            return pump.status
        finally:
            answered(by_application=False)

    async def _open(
        self, route: RouteTarget, visit: Visit, scope: dict[str, Any], trace_id: bytes
    ) -> tuple[Any, Visit]:
        try:
            return await self._backend.open(route, visit.number, scope, trace_id=trace_id), visit
        except NotPermitted:
            if not visit.name:
                raise
            visit = await self._sessions.again(visit)
            return await self._backend.open(route, visit.number, scope, trace_id=trace_id), visit

    def _keep(self, rest: Any) -> None:
        task = asyncio.get_running_loop().create_task(rest)
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        trace_id = trace_of(headers.get(b"traceparent"))
        extensions = scope.get("extensions")
        pattern: str | None = None
        begun_s = time.monotonic() if self.log.access else 0.0
        try:
            match = self.routes.match_websocket(scope["raw_path"])
            pattern = match.route.path
            visit = await self._sessions.enter(match.route.needs_session, headers)
            exchange, visit = await self._open(match.route, visit, _shown(scope, match), trace_id)
        except (ShardwrightError, Problem) as error:
            problem = self.log.problem(error, pattern, trace_id)
            if self.log.access:
                self.log.request("WEBSOCKET", pattern, problem.status, begun_s, trace_id)
            await deny(send, problem, trace_id, extensions)
            return
        timeout_s = match.route.timeout_s
        del headers, match  # it may be idle for long: what it holds counts
        meters: list[Any] = []
        pump = WebSocketPump(
            exchange,
            receive,
            send,
            trace_id,
            visit.headers,
            extensions,
            lambda: meters.append(self.monitor.websocket(pattern)),
            timeout_s=timeout_s,
        )
        try:
            await pump.run()
        except OSError:
            pass  # the client left while it was told how this ends
        except Exception as defect:
            self.log.defect(defect, pattern, trace_id)
            raise
        finally:
            exchange.cancel()
            for meter in meters:
                meter.ended(pump.code)
            if self.log.access:
                self.log.request("WEBSOCKET", pattern, pump.code, begun_s, trace_id)


def _too_large() -> Problem:
    return Problem(413, "The body is larger than this gateway takes.", ((b"connection", b"close"),))


def _shown(scope: Scope, match: Match) -> dict[str, Any]:
    """The scope that the application sees."""
    shown = dict(scope)
    shown["root_path"] = match.root_path
    shown["headers"] = without_session(scope["headers"])
    return shown
