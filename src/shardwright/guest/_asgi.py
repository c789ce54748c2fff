"""Runs an ASGI application in a shard: it sees what it sees under a server of its own.

Events are checked here, at the application's own call of ``send``, so that a mistake is raised where it was made. What a
server does differently from the specification is done as uvicorn does it, for that is what applications are tried with:
``send`` to an HTTP client that is gone does nothing, and to a WebSocket client that is gone raises an OSError.

Everything runs on the shard's event loop. What the application sends in one turn of it leaves as one message.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from shardwright.errors import CallError
from shardwright.guest._exchange import MAX_BATCH, PIECE, pieces
from shardwright.guest._web_messages import (
    ApplicationEvent,
    DenialBody,
    DenialStart,
    EarlyHint,
    Headers,
    ResponseBody,
    ResponseStart,
    ResponseTrailers,
    WebSocketAccept,
    WebSocketClose,
    WebSocketSend,
    check_headers,
)
from shardwright.guest._web_stream import Stream

__all__ = ["AsgiExchange", "BadApplication", "ClientDisconnected"]

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App3 = Callable[[Scope, Receive, Send], Awaitable[Any]]

GRACE_S = 10.0  # what an application has to end by itself when its client went before it got its answer
HTTP_EXTENSIONS = frozenset({"http.response.trailers", "http.response.early_hint"})
log = logging.getLogger("shardwright.web")


class BadApplication(CallError):
    """An application that broke the rules of ASGI or WSGI."""

    code = "SW312"
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
        self._response = _HttpResponse(stream.opened.method, self.extensions) if self.is_http else _WebSocketAnswer()
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
            await future

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


# -- what may be sent when ----------------------------------------------------------------------------------------


class _HttpResponse:
    """The answer to one request, as far as it has been sent."""

    def __init__(self, method: str, extensions: frozenset[str]) -> None:
        self.complete = False
        self.closed: dict[str, Any] | None = None
        self._extensions = extensions
        self._is_head = method == "HEAD"
        self._started = False
        self._trailers = False
        self._body_complete = False
        self._expected: int | None = None  # bytes of the body that the headers promise, less what was sent

    @property
    def missing(self) -> str:
        if not self._started:
            return "starting response"
        return "" if self.complete else "completing response"

    def accepts(self, event: Event) -> ApplicationEvent | None:
        """The message for ``event``; raises what uvicorn raises when it has no place here."""
        kind = event["type"]
        if self.complete:
            raise RuntimeError(f"Unexpected ASGI message '{kind}' sent, after response already completed.")
        if not self._started:
            if kind == "http.response.early_hint" and kind in self._extensions:
                return EarlyHint(tuple(_bytes(link, "a link") for link in event.get("links", ())))
            if kind != "http.response.start":
                raise RuntimeError(f"Expected ASGI message 'http.response.start', but got '{kind}'.")
            return self._start(event)
        if not self._body_complete:
            if kind != "http.response.body":
                raise RuntimeError(f"Expected ASGI message 'http.response.body', but got '{kind}'.")
            return self._body(event)
        if kind != "http.response.trailers":
            raise RuntimeError(f"Expected ASGI message 'http.response.trailers', but got '{kind}'.")
        more = bool(event.get("more_trailers", False))
        self.complete = not more
        return ResponseTrailers(_headers(event.get("headers", ())), more)

    def _start(self, event: Event) -> ApplicationEvent:
        status = _status(event["status"], 200)
        headers = _headers(event.get("headers", ()))
        if not self._is_head and status not in (204, 304):
            for name, value in headers:
                if name.lower() == b"content-length":
                    try:
                        self._expected = int(value)
                    except ValueError:
                        raise ValueError(f"Invalid Content-Length {value!r:.60}") from None
        self._started = True
        self._trailers = bool(event.get("trailers", False)) and "http.response.trailers" in self._extensions
        return ResponseStart(status, headers, self._trailers)

    def _body(self, event: Event) -> ApplicationEvent:
        body = _bytes(event.get("body", b""), "the body")
        more = bool(event.get("more_body", False))
        if self._expected is not None:
            if len(body) > self._expected:
                raise RuntimeError("Response content longer than Content-Length")
            self._expected -= len(body)
            if not more and self._expected:
                raise RuntimeError("Response content shorter than Content-Length")
        self._body_complete = not more
        self.complete = self._body_complete and not self._trailers
        return ResponseBody(b"" if self._is_head else body, more)


class _WebSocketAnswer:
    """What one WebSocket application has answered so far."""

    def __init__(self) -> None:
        self.complete = False
        self.closed: dict[str, Any] | None = None  # what ``receive`` gives once the application itself closed
        self._accepted = False
        self._denying = False

    @property
    def missing(self) -> str:
        if self._denying and not self.complete:
            return "completing response"
        return "" if self._accepted or self.complete else "completing handshake"

    def accepts(self, event: Event) -> ApplicationEvent | None:
        """The message for ``event``; raises what uvicorn raises when it has no place here."""
        kind = event["type"]
        if self.complete:
            raise RuntimeError(
                f"Unexpected ASGI message '{kind}', after sending 'websocket.close' or response already completed."
            )
        if self._denying:
            if kind != "websocket.http.response.body":
                raise RuntimeError(f"Expected ASGI message 'websocket.http.response.body' but got '{kind}'.")
            more = bool(event.get("more_body", False))
            if not more:
                self._end({"type": "websocket.disconnect", "code": 1006})
            return DenialBody(_bytes(event.get("body", b""), "the body"), more)
        if self._accepted:
            return self._talk(event, kind)
        if kind == "websocket.accept":
            subprotocol = event.get("subprotocol")
            if subprotocol is not None and not isinstance(subprotocol, str):
                raise TypeError(f"the subprotocol must be a str, not {type(subprotocol).__name__}")
            accepted = WebSocketAccept(subprotocol, _headers(event.get("headers") or ()))
            self._accepted = True
            return accepted
        if kind == "websocket.close":
            self._end({"type": "websocket.disconnect", "code": 1006})
            return _close(event)
        if kind == "websocket.http.response.start":
            denied = DenialStart(_status(event["status"], 200), _headers(event.get("headers", ())))
            self._denying = True
            return denied
        raise RuntimeError(
            "Expected ASGI message 'websocket.accept', 'websocket.close' "
            f"or 'websocket.http.response.start' but got '{kind}'."
        )

    def _talk(self, event: Event, kind: str) -> ApplicationEvent | None:
        if kind == "websocket.close":
            close = _close(event)
            self._end({"type": "websocket.disconnect", "code": close.code, "reason": close.reason})
            return close
        if kind != "websocket.send":
            raise RuntimeError(f"Expected ASGI message 'websocket.send' or 'websocket.close', but got '{kind}'.")
        data, text = event.get("bytes"), event.get("text")
        if data is not None:
            return WebSocketSend(_bytes(data, "a message"))
        if text is None:
            return None
        if not isinstance(text, str):
            raise TypeError(f"the text of a message must be a str, not {type(text).__name__}")
        return WebSocketSend(text.encode(), text=True)

    def _end(self, closed: dict[str, Any]) -> None:
        self.complete = True
        self.closed = closed


def _close(event: Event) -> WebSocketClose:
    code, reason = event.get("code", 1000), event.get("reason") or ""
    if not isinstance(code, int) or not 1000 <= code <= 4999:
        raise ValueError(f"{code!r:.60} is not a close code")
    if not isinstance(reason, str) or len(reason.encode()) > 123:
        raise ValueError("the reason must be a str of at most 123 bytes")
    return WebSocketClose(code, reason)


def _status(status: Any, least: int) -> int:
    if not isinstance(status, int):
        raise TypeError(f"the status must be an int, not {type(status).__name__}")
    if not least <= status <= 599:
        raise ValueError(f"{status} is not the status of a response")
    return int(status)


def _bytes(found: Any, what: str) -> bytes:
    if isinstance(found, bytes):
        return found
    if isinstance(found, (bytearray, memoryview)):
        return bytes(found)
    raise TypeError(f"{what} must be bytes, not {type(found).__name__}")


def _headers(found: Iterable[Iterable[Any]]) -> Headers:
    headers = []
    for pair in found:
        name, value = pair
        headers.append((_bytes(name, "the name of a header"), _bytes(value, "the value of a header").strip(b" \t")))
    check_headers(headers)
    return tuple(headers)
