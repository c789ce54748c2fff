"""A Backend that runs functions and ASGI applications in this very process, and a served front for tests.

It has real windows: an exchange holds back either side as the one over links does.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from shardwright.errors import ShardLost, ShardwrightError
from shardwright.gateway import GatewaySettings, Raised, SessionRefused
from shardwright.gateway._backend import NodeView
from shardwright.gateway._front import Front
from shardwright.gateway._server import serve_front
from shardwright.guest import FunctionReply, FunctionRequest
from shardwright.model.ids import ComponentName, MethodId
from shardwright.model.manifest import Gateway
from shardwright.model.scope import ScopeKind
from shardwright.model.shard import EntryKind, RouteTarget

Function = Callable[[FunctionRequest], "FunctionReply | Awaitable[FunctionReply]"]
WINDOW = 256 * 1024
KEY = b"a key of thirty-two bytes, all ours"


def function_route(path: str, name: str, *methods: str, session: bool = False) -> RouteTarget:
    scope = ScopeKind.SESSION if session else ScopeKind.SHARED
    component = ComponentName(name.partition(".")[0])
    return RouteTarget(path, methods, component, MethodId(0), name, EntryKind.FUNCTION, scope, session)


def application_route(path: str, name: str, *methods: str, session: bool = False) -> RouteTarget:
    scope = ScopeKind.SESSION if session else ScopeKind.SHARED
    return RouteTarget(path, methods, ComponentName(name), MethodId(0), name, EntryKind.APPLICATION, scope, session)


class _Way:
    """Events in one direction, no more than a window of them."""

    def __init__(self) -> None:
        self.events: deque[dict[str, Any]] = deque()
        self.bytes = 0
        self.most = 0
        self.changed = asyncio.Event()

    @staticmethod
    def _size(event: dict[str, Any]) -> int:
        return 76 + len(event.get("body") or event.get("bytes") or event.get("text") or b"")

    async def put(self, event: dict[str, Any], closed: Callable[[], bool]) -> None:
        while self.bytes and self.bytes + self._size(event) > WINDOW and not closed():
            self.changed.clear()
            await self.changed.wait()
        self.events.append(event)
        self.bytes += self._size(event)
        self.most = max(self.most, self.bytes)
        self.changed.set()

    async def get(self, closed: Callable[[], bool]) -> dict[str, Any] | None:
        while not self.events:
            if closed():
                return None
            self.changed.clear()
            await self.changed.wait()
        event = self.events.popleft()
        self.bytes -= self._size(event)
        self.changed.set()
        return event


class StandInExchange:
    def __init__(self, app: Any, scope: dict[str, Any], grace_s: float) -> None:
        self.to_app, self.from_app = _Way(), _Way()
        self.scope = scope
        self.failure: BaseException | None = None
        self.ended = False
        self.cancelled = False
        self._gone = "http.disconnect" if scope["type"] == "http" else "websocket.disconnect"
        self._grace_s = grace_s
        self.task = asyncio.ensure_future(self._run(app))

    async def _run(self, app: Any) -> None:
        async def send(event: dict[str, Any]) -> None:
            await self.from_app.put(event, lambda: self.cancelled)

        async def receive() -> dict[str, Any]:
            event = await self.to_app.get(lambda: self.cancelled)
            return event if event is not None else {"type": self._gone, "code": 1006}

        try:
            await app(self.scope, receive, send)
        except Exception as error:
            self.failure = error
        finally:
            self.ended = True
            self.from_app.changed.set()
            self.to_app.changed.set()

    async def send(self, event: dict[str, Any]) -> None:
        await self.to_app.put(event, lambda: self.ended or self.cancelled)

    async def receive(self) -> dict[str, Any] | None:
        event = await self.from_app.get(lambda: self.ended)
        if event is None and self.failure is not None:
            if isinstance(self.failure, ShardwrightError):
                raise self.failure
            raise Raised(str(self.failure), type_name=type(self.failure).__qualname__)
        return event

    def cancel(self) -> None:
        if not self.cancelled:
            self.cancelled = True
            self.to_app.changed.set()
            self.from_app.changed.set()
            asyncio.get_running_loop().call_later(self._grace_s, self.task.cancel)


@dataclass
class StandIn:
    """The Backend. ``fail`` makes every call raise it; ``rooms`` bounds the sessions."""

    functions: dict[str, Function] = field(default_factory=dict)
    applications: dict[str, Any] = field(default_factory=dict)
    described: dict[str, dict[str, Any]] = field(default_factory=dict)
    fail: ShardwrightError | None = None
    rooms: int = 1000
    grace_s: float = 0.05
    on_session_ended: Callable[[str], None] | None = None
    sessions: dict[str, int] = field(default_factory=dict)
    calls: list[tuple[str, int, bytes, int]] = field(default_factory=list)
    exchanges: list[StandInExchange] = field(default_factory=list)
    begun: int = 0
    cancelled: int = 0
    told: int = 0  # calls whose outcome went to a callback
    keep: bool = True
    ready: bool = True

    def session(self, name: str) -> int | None:
        return self.sessions.get(name)

    async def begin_session(self, name: str) -> int:
        if name not in self.sessions:
            if len(self.sessions) >= self.rooms:
                raise SessionRefused("no room", reason_code="SW601")
            self.begun += 1
            self.sessions[name] = self.begun
        return self.sessions[name]

    async def end_session(self, name: str) -> None:
        self.sessions.pop(name, None)

    def begin(
        self,
        route: RouteTarget,
        session: int,
        request: FunctionRequest,
        heard: Callable[[Any], None],
        *,
        deadline_ns: int = 0,
        trace_id: bytes = b"\0" * 16,
    ) -> asyncio.Task[None]:
        self.told += 1

        async def tell() -> None:
            try:
                found: Any = await self.call(route, session, request, deadline_ns=deadline_ns, trace_id=trace_id)
            except ShardwrightError as error:
                found = error
            heard(found)

        return asyncio.ensure_future(tell())

    async def call(
        self,
        route: RouteTarget,
        session: int,
        request: FunctionRequest,
        *,
        deadline_ns: int = 0,
        trace_id: bytes = b"\0" * 16,
    ) -> FunctionReply:
        if self.keep:
            self.calls.append((route.name, session, trace_id, deadline_ns))
        if self.fail is not None:
            raise self.fail
        try:
            reply = self.functions[route.name](request)
            return reply if isinstance(reply, FunctionReply) else await reply
        except ShardwrightError:
            raise
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        except Exception as error:
            raise Raised(
                str(error), type_name=type(error).__qualname__, status=getattr(error, "status_code", None)
            ) from error

    async def open(
        self, route: RouteTarget, session: int, scope: dict[str, Any], *, trace_id: bytes = b"\0" * 16
    ) -> StandInExchange:
        if self.fail is not None:
            raise self.fail
        exchange = StandInExchange(self.applications[route.name], scope, self.grace_s)
        if self.keep:
            self.exchanges.append(exchange)
        return exchange

    async def describe(self, route: RouteTarget, method: str) -> dict[str, Any]:
        if self.fail is not None:
            raise ShardLost("gone", outcome="not started")
        return self.described.get(route.name, {})

    async def node(self, *, numbers: bool = False) -> NodeView:
        return NodeView(True, self.ready)

    async def status(self) -> dict[str, Any]:
        return {
            "shards": [{"shard": "web-1", "guarantee": {"cpu": 0.5}}],
            "sessions": list(self.sessions),
            "decisions": [],
        }


@dataclass
class Served:
    """A front that is being served. ``stop`` drains it."""

    port: int
    front: Front
    backend: StandIn
    stopping: asyncio.Event
    serving: asyncio.Task[None]

    async def stop(self) -> None:
        self.stopping.set()
        await self.serving


def settings(routes: tuple[RouteTarget, ...], **gateway: Any) -> GatewaySettings:
    return GatewaySettings("trial", Gateway(**gateway), routes, KEY)


@asynccontextmanager
async def served(
    backend: StandIn, *routes: RouteTarget, token: str = "", now_s: Any = None, **gateway: Any
) -> AsyncIterator[Served]:
    """The front over ``backend`` on a port of loopback; drained at the end."""
    listener = socket.create_server(("127.0.0.1", 0))
    keeper = listener.dup()  # as the keeper does: the listening socket outlives the server
    made = settings(routes, **gateway)
    front = Front(made, backend, token=token, **({} if now_s is None else {"now_s": now_s}))
    stopping = asyncio.Event()
    serving = asyncio.ensure_future(serve_front(front, made, [listener], stopping))
    served = Served(keeper.getsockname()[1], front, backend, stopping, serving)
    try:
        yield served
    finally:
        keeper.close()
        stopping.set()
        try:
            await serving
        finally:
            for exchange in backend.exchanges:
                exchange.task.cancel()
            await asyncio.gather(*(each.task for each in backend.exchanges), return_exceptions=True)


class Raw:
    """A client that says exactly what it is told to say."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int, tls: ssl.SSLContext | None = None) -> Raw:
        name = "localhost" if tls is not None else None
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=name))

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, head: bool = False) -> tuple[int, dict[str, str], bytes]:
        """One response. Raises IncompleteReadError when the connection ends first."""
        text = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 15)).decode("latin-1")
        lines = text.split("\r\n")
        status = int(lines[0].split(" ")[1])
        headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines[1:] if line}
        body = b""
        if head or status in (204, 304) or status < 200:
            return status, headers, body
        if headers.get("transfer-encoding") == "chunked":
            while True:
                size = int((await self.reader.readuntil(b"\r\n")).strip(), 16)
                chunk = await self.reader.readexactly(size + 2)
                if not size:
                    break
                body += chunk[:-2]
        else:
            body = await asyncio.wait_for(self.reader.readexactly(int(headers["content-length"])), 15)
        return status, headers, body

    async def rest(self) -> bytes:
        """All until the connection ends."""
        try:
            return await asyncio.wait_for(self.reader.read(), 15)
        except ConnectionError:
            return b""

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except (ConnectionError, ssl.SSLError):
            pass


async def ask(port: int, text: str | bytes, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    """``ask(port, "GET /x", ...)``: one request on a connection of its own. Lines behind the first are headers."""
    text = text.encode() if isinstance(text, str) else text
    first, *lines = text.split(b"\n")
    lines += [b"host: localhost", b"connection: close"]
    if body:
        lines.append(b"content-length: %d" % len(body))
    raw = await Raw.connect(port)
    try:
        await raw.say(b"\r\n".join([first + b" HTTP/1.1", *lines]) + b"\r\n\r\n" + body)
        return await raw.answer(head=first.startswith(b"HEAD "))
    finally:
        await raw.close()
