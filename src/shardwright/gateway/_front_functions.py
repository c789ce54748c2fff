"""Requests for functions: made into calls, admitted, answered.

Most of them need nothing that must be waited for but the answer: they have no body, their session is known, a shard is at
hand. Such a call begins as soon as the head of the request is read, and its answer is sent by a callback (``begin``). A task
and the machinery of ASGI would cost more than the call. All others, and those of HTTP/2, are awaited (``call``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Protocol
from urllib.parse import parse_qsl

from shardwright.errors import CallError, NotPermitted, ShardwrightError
from shardwright.gateway._admission import Admission, Gate
from shardwright.gateway._backend import Backend, Begun, Raised
from shardwright.gateway._front_asgi import safe_headers, trace_of
from shardwright.gateway._front_log import FrontLog
from shardwright.gateway._limits import Limits
from shardwright.gateway._problems import PROBLEM_TYPE, Problem
from shardwright.gateway._random import random_bytes
from shardwright.gateway._routes import Match, RouteTable
from shardwright.gateway._sessions import Sessions, Visit
from shardwright.guest import FunctionReply, FunctionRequest
from shardwright.model.shard import EntryKind, RouteTarget
from shardwright.monitoring import GatewayMonitor, RequestMeter

__all__ = ["NO_STORE", "Asker", "DirectCall", "Functions", "content_type_of"]

NO_STORE = (b"cache-control", b"no-store")
_JSON = "application/json"
_UNUSABLE = "The application gave no usable answer."


class Asker(Protocol):
    """Where the answer of a direct call goes."""

    def answer(
        self,
        status: int,
        content_type: bytes,
        body: bytes,
        trace_id: bytes,
        extra: Iterable[tuple[bytes, bytes]],
    ) -> None:
        """The whole response, as ``respond`` sends it."""

    def fail(self) -> None:
        """There is none, and will be none."""


class Functions:
    """All functions that routes lead to. ``elsewhere`` says which paths may be answered before routes are asked."""

    def __init__(
        self,
        routes: RouteTable,
        backend: Backend,
        sessions: Sessions,
        limits: Limits,
        monitor: GatewayMonitor,
        log: FrontLog,
        admission: Admission,
        elsewhere: Callable[[bytes], bool],
    ) -> None:
        self.backend = backend
        self.sessions = sessions
        self.monitor = monitor
        self.log = log
        self._routes = routes
        self._limits = limits
        self._admission = admission
        self._elsewhere = elsewhere

    def __repr__(self) -> str:
        return "<Functions>"

    def limit_s(self, route: RouteTarget) -> float:
        """How long a call may take, as the route says it, or the gateway."""
        return route.timeout_s or self._limits.call_timeout_s

    def request(
        self, method: str, match: Match, query: bytes, body: bytes = b"", content_type: str = ""
    ) -> FunctionRequest:
        """What the shard is asked. Raises Problem where the query cannot be read."""
        return FunctionRequest(method, dict(match.path), self.pairs(query), body, content_type)

    def pairs(self, query: bytes) -> tuple[tuple[str, str], ...]:
        """Names and values of a query. Raises Problem."""
        if not query:
            return ()
        try:
            return tuple(
                parse_qsl(
                    query.decode("ascii"),
                    keep_blank_values=True,
                    errors="strict",
                    max_num_fields=self._limits.query_fields,
                )
            )
        except ValueError:
            raise Problem(400, "The query cannot be read.") from None

    def admit(self, route: RouteTarget, now_s: float, deadline_s: float) -> Gate:
        """Let a request in. Raises Problem."""
        try:
            return self._admission.enter(route.component, now_s, deadline_s)
        except Problem:
            self.monitor.shed(route.component, "queue")
            raise

    # -- awaited ---------------------------------------------------------------------------------------------------

    async def call(
        self, route: RouteTarget, visit: Visit, request: FunctionRequest, *, trace_id: bytes, limit_s: float
    ) -> FunctionReply:
        """Run a function for an admitted request. Raises Problem and what the backend raises."""
        now_s = time.monotonic()
        gate = self.admit(route, now_s, now_s + limit_s)
        deadline_ns = int((now_s + limit_s) * 1e9)
        answered = True
        try:
            try:
                return await self.backend.call(route, visit.number, request, deadline_ns=deadline_ns, trace_id=trace_id)
            except NotPermitted:
                if not visit.name:
                    raise
                return await self.again(route, visit, request, deadline_ns, trace_id)
        except Raised:
            raise
        except BaseException:
            answered = False
            raise
        finally:
            gate.left(time.monotonic(), answered=answered)

    async def again(
        self, route: RouteTarget, visit: Visit, request: FunctionRequest, deadline_ns: int, trace_id: bytes
    ) -> FunctionReply:
        """The session had ended: call in one that begins anew, by the same name."""
        visit = await self.sessions.again(visit)
        return await self.backend.call(route, visit.number, request, deadline_ns=deadline_ns, trace_id=trace_id)

    # -- told ------------------------------------------------------------------------------------------------------

    def begin(self, method: str, target: bytes, headers: list[tuple[bytes, bytes]], asker: Asker) -> DirectCall | None:
        """Begin the call that a request without a body is, and let ``asker`` have the answer, perhaps before this returns.

        None: it is not one of a function, or something must be waited for, or it is to be refused: nothing was begun.
        """
        raw_path, _, query = target.partition(b"?")
        given = dict(headers)
        if (
            b"transfer-encoding" in given
            or b"expect" in given
            or given.get(b"content-length", b"0") != b"0"
            or self._elsewhere(raw_path)
        ):
            return None
        try:
            match = self._routes.match(method, raw_path)
            route = match.route
            if route.kind is not EntryKind.FUNCTION:
                return None
            visit = self.sessions.known(route.needs_session, given)
            if visit is None:
                return None
            request = FunctionRequest(method, dict(match.path), self.pairs(query) if query else ())
        except Problem:
            return None
        parent = given.get(b"traceparent")
        trace_id = random_bytes(16) if parent is None else trace_of(parent)
        call = DirectCall(self, asker, route, visit, request, trace_id)
        return call if call.begin() else None


class DirectCall:
    """One call whose answer goes to its asker by a callback."""

    __slots__ = (
        "_anew",
        "_asker",
        "_begun_s",
        "_deadline_s",
        "_functions",
        "_gate",
        "_meter",
        "_over",
        "_request",
        "_route",
        "_running",
        "_trace_id",
        "_visit",
    )

    def __init__(
        self,
        functions: Functions,
        asker: Asker,
        route: RouteTarget,
        visit: Visit,
        request: FunctionRequest,
        trace_id: bytes,
    ) -> None:
        self._functions = functions
        self._asker = asker
        self._route = route
        self._visit = visit
        self._request = request
        self._trace_id = trace_id
        self._begun_s = time.monotonic()
        self._deadline_s = self._begun_s + functions.limit_s(route)
        self._gate: Gate | None = None
        self._running: Begun | asyncio.Task[None] | None = None
        self._anew = False  # in a session that was begun for it
        self._over = False
        self._meter: RequestMeter | None = None

    def __repr__(self) -> str:
        return f"<DirectCall of {self._route.name}, {'over' if self._over else 'running'}>"

    def begin(self) -> bool:
        """False: it cannot be begun without waiting, and leaves no trace."""
        functions = self._functions
        try:
            deadline_s = self._deadline_s
            self._gate = functions.admit(self._route, self._begun_s, deadline_s)
            self._running = functions.backend.begin(
                self._route,
                self._visit.number,
                self._request,
                self.heard,
                deadline_ns=int(deadline_s * 1e9),
                trace_id=self._trace_id,
            )
        except Exception as error:
            self._measure()
            self.heard(error)
            return True
        if self._running is None:
            self._gate.left(self._begun_s, answered=False)
            return False
        self._measure()
        return True

    def _measure(self) -> None:
        self._meter = self._functions.monitor.request(self._route.path, self._request.method)

    def gone(self) -> None:
        """The client has left."""
        if not self._over:
            if self._running is not None:
                self._running.cancel()
            self._end(None, answered=False)

    def heard(self, found: object) -> None:
        """The outcome: what the backend tells."""
        try:
            if type(found) is not FunctionReply:
                self._failed(found)
                return
            try:
                content_type = content_type_of(found)
            except Problem as unusable:
                self._failed(unusable)
                return
            self._end(found.status, answered=True)
            self._asker.answer(found.status, content_type, found.body, self._trace_id, self._visit.headers)
        except Exception as defect:
            self._functions.log.defect(defect, self._route.path, self._trace_id)
            if not self._over:
                self._end(500, answered=False)
            self._asker.fail()

    def _failed(self, error: object) -> None:
        if isinstance(error, NotPermitted) and self._visit.name and not self._anew:
            self._anew = True
            self._running = asyncio.get_running_loop().create_task(self._again())
            return
        if not isinstance(error, Exception):
            error = CallError(f"{self._route.name} gave no answer of a function", outcome="failed")
        if not isinstance(error, (ShardwrightError, Problem)):
            raise error
        problem = self._functions.log.problem(error, self._route.path, self._trace_id)
        self._end(problem.status, answered=isinstance(error, Raised))
        body = problem.body(self._trace_id)
        self._asker.answer(problem.status, PROBLEM_TYPE, body, self._trace_id, (*problem.headers, NO_STORE))

    async def _again(self) -> None:
        deadline_ns = int(self._deadline_s * 1e9)
        try:
            reply: object = await self._functions.again(
                self._route, self._visit, self._request, deadline_ns, self._trace_id
            )
        except Exception as error:
            reply = error
        if not self._over:
            self.heard(reply)

    def _end(self, status: int | None, *, answered: bool) -> None:
        self._over = True
        self._running = None  # which knows us
        if self._gate is not None:
            self._gate.left(time.monotonic(), answered=answered)
        if self._meter is not None:
            self._meter.ended(status)
        log = self._functions.log
        if log.access:
            log.request(self._request.method, self._route.path, status, self._begun_s, self._trace_id)


def content_type_of(reply: FunctionReply) -> bytes:
    """The type of a shard's answer. Raises Problem(502) for an answer that would not be one response on the wire."""
    if reply.status < 200:
        raise Problem(502, _UNUSABLE)
    if reply.content_type == _JSON:
        return b"application/json"
    try:
        content_type = reply.content_type.encode("latin-1")
        safe_headers(((b"content-type", content_type),))
    except ValueError:
        raise Problem(502, _UNUSABLE) from None
    return content_type
