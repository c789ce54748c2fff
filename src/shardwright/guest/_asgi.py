"""Runs an ASGI application in a shard: it sees what it sees under a server of its own.

Events are checked here, at the application's own call of ``send``, so that a mistake is raised where it was made. What a
server does differently from the specification is done as uvicorn does it, for that is what applications are tried with:
``send`` to an HTTP client that is gone does nothing, and to a WebSocket client that is gone raises an OSError.

Everything runs on the shard's event loop. What the application sends in one turn of it leaves as one message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from shardwright.errors import CallError
from shardwright.guest._asgi_events import Event, HttpResponse, WebSocketAnswer
from shardwright.guest._exchange import MAX_BATCH, PIECE, pieces
from shardwright.guest._web_stream import Stream

__all__ = ["AsgiExchange", "BadApplication", "ClientDisconnected"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App3 = Callable[[Scope, Receive, Send], Awaitable[Any]]

GRACE_S = 10.0  # what an application has to end by itself when its client went before it got its answer
HTTP_EXTENSIONS = frozenset({"http.response.trailers", "http.response.early_hint"})


class BadApplication(CallError):
    """An application that broke the rules of ASGI or WSGI."""

    code = "SW422"
    fault = "you"


class ClientDisconnected(OSError):
    """The client of a WebSocket is gone: nothing can be sent to it."""


class AsgiExchange:
    """One call of an application, from its first event to its return."""

    def __init__(self, stream: Stream, state: dict[str, Any], *, version: str = "3.0") -> None:
        self.stream = stream
        self.is_http = stream.opened.type == "http"
        self._loop = asyncio.get_running_loop()
        self._reserved: list[bytes] = []  # pieces that leave together, soon
        self._reserved_bytes = 0
        self._flush: asyncio.Handle | None = None
        self._response = HttpResponse(stream.opened.method, self.extensions) if self.is_http else WebSocketAnswer()
        self._connected = self.is_http  # a WebSocket application first hears that somebody connects
        self.scope = self._scope(state, version)

    # -- the scope ---------------------------------------------------------------------------------------------

    @property
    def extensions(self) -> frozenset[str]:
        return HTTP_EXTENSIONS.intersection(self.stream.opened.extensions)

    def _scope(self, state: dict[str, Any], version: str) -> Scope:
        opened = self.stream.opened
        scope: dict[str, Any] = {
            "type": opened.type,
            "asgi": {"version": version, "spec_version": "2.3" if self.is_http else "2.4"},
            "http_version": opened.http_version,
            "server": opened.server,
            "client": opened.client,
            "scheme": opened.scheme,
            "root_path": opened.root_path,
            "path": opened.path,
            "raw_path": opened.raw_path,
            "query_string": opened.query_string,
            "headers": list(opened.headers),
            "state": state.copy(),
        }
        if self.is_http:
            scope["method"] = opened.method
            if self.extensions:
                scope["extensions"] = {name: {} for name in sorted(self.extensions)}
        else:
            scope["subprotocols"] = list(opened.subprotocols)
            scope["extensions"] = {"websocket.http.response": {}}
        return scope

    # -- its life ----------------------------------------------------------------------------------------------

    async def run(self, app: App3) -> list[bytes]:
        """Call the application; returns what it sent last and is not on its way yet.

        Raises what it raises, and BadApplication when it left its client without an answer.
        """
        task = asyncio.current_task()
        assert task is not None
        self.stream.on_gone = lambda: self._threadsafe(self._leave_to_end, task)
        if self.stream.gone is not None:
            self._leave_to_end(task)
        try:
            result = await app(self.scope, self.receive, self.send)
        except ClientDisconnected:
            if self.is_http or self.stream.gone is None:
                raise
            return []
        else:
            self._check(result)
            return self._take_rest()
        finally:
            self.stream.on_gone = lambda: None
            self._flush_now()

    def _check(self, result: Any) -> None:
        if result is not None:
            raise BadApplication(f"ASGI callable should return None, but returned {result!r:.200}", outcome="failed")
        if self.stream.gone is None and (missing := self._response.missing):
            raise BadApplication(f"ASGI callable returned without {missing}", outcome="failed")

    def _leave_to_end(self, task: asyncio.Task[Any]) -> None:
        """The client is gone. What was answered in full may go on, as background tasks do; the rest is given its grace."""
        if not self._response.complete:
            self._loop.call_later(GRACE_S, self._cancel, task)

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        if not task.done() and not self._response.complete:
            task.cancel("the client is gone")

    def _threadsafe(self, call: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:
            pass  # the loop was closed: nobody waits

    # -- receive -----------------------------------------------------------------------------------------------

    async def receive(self) -> Event:
        """What ASGI calls ``receive``."""
        stream, response = self.stream, self._response
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        while True:
            if self.is_http and (stream.gone is not None or response.complete):
                return {"type": "http.disconnect"}
            event = stream.take()
            if event is not None:
                return event.event()
            if stream.gone is not None:
                return stream.gone.event()
            if (closed := response.closed) is not None:
                return closed.copy()
            stream.want()
            await self._changed(lambda: stream.quiet and not response.complete)

    async def _changed(self, still: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()  # an application may well wait on a loop of its own
        future = loop.create_future()

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(_settle, future)
            except RuntimeError:
                pass

        if self.stream.when_changed(wake, still):
            try:
                await future
            finally:
                self.stream.forget(wake)

    # -- send --------------------------------------------------------------------------------------------------

    async def send(self, event: Event) -> None:
        """What ASGI calls ``send``. Raises RuntimeError, TypeError, ValueError for what must not be sent now."""
        stream, response = self.stream, self._response
        if self._client_gone():
            return
        message = response.accepts(event)
        if message is None:
            return
        for piece in pieces(message):
            while not stream.reserve(piece):
                self._flush_now()
                await self._changed(lambda piece=piece: stream.tight(piece))  # type: ignore[misc]
                if self._client_gone():
                    return
            self._reserved.append(piece)
            self._reserved_bytes += len(piece)
            if self._reserved_bytes >= PIECE:
                self._flush_now()
            elif self._flush is None:
                self._flush = asyncio.get_running_loop().call_soon(self._flush_now)
        if response.complete:
            stream.wake()  # who waits in ``receive`` hears of the disconnect

    def _client_gone(self) -> bool:
        """Whether what is sent goes nowhere. Raises ClientDisconnected where a server says so."""
        if self.stream.gone is None:
            return False
        if self.is_http:
            return True
        raise ClientDisconnected("the client is gone")

    def _take_rest(self) -> list[bytes]:
        if self.stream.gone is not None or not 0 < len(self._reserved) <= MAX_BATCH or self._reserved_bytes >= PIECE:
            return []
        rest, self._reserved = self._reserved, []
        return rest

    def _flush_now(self) -> None:
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        if self._reserved:
            reserved, self._reserved = self._reserved, []
            self._reserved_bytes = 0
            if self.stream.gone is None:
                self.stream.send(reserved)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
