"""A request and its application, pumped both ways.

Neither direction holds more than one event: a slow client stops the application's sending, a slow application stops the
client's. The server cancels the task of a request whose client is gone; that ends the exchange too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from shardwright.errors import ShardwrightError
from shardwright.gateway._backend import Exchange, Raised
from shardwright.gateway._front_asgi import TRACE_HEADER, Aborted, Headers, Receive, Send, respond_problem, safe_headers
from shardwright.gateway._limits import Limits
from shardwright.gateway._problems import Problem, problem_of
from shardwright.guest import CONTINUE

__all__ = ["HttpPump", "WebSocketPump", "deny"]

_NONSENSE = Problem(502, "The application gave no usable answer.")


async def _in_time(exchange: Exchange, until_s: float) -> dict[str, Any] | None:
    try:
        async with asyncio.timeout_at(until_s):
            return await exchange.receive()
    except TimeoutError:
        raise Problem(504, "The application did not answer in time.") from None


class HttpPump:
    """One HTTP exchange. ``answered`` is called when the response begins."""

    def __init__(
        self,
        exchange: Exchange,
        receive: Receive,
        send: Send,
        limits: Limits,
        trace_id: bytes,
        extra: tuple[tuple[bytes, bytes], ...],
        answered: Callable[[], None],
        expecting: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        """``expecting``: the client sends its body when it is asked to, which is when the application asks for it.

        ``timeout_s``: in which the response begins.
        """
        self._timeout_s = timeout_s
        self._exchange = exchange
        self._receive = receive
        self._send = send
        self._limits = limits
        self._wanted: asyncio.Event | None = asyncio.Event() if expecting else None
        self._trace_id = trace_id
        self._extra = (*extra, (TRACE_HEADER, trace_id.hex().encode()))
        self._answered = answered
        self._trailers = False
        self.status = 0
        self.complete = False
        self.returned = False

    async def run(self, has_body: bool) -> None:
        """Until the response is complete. Raises Aborted when it was begun and cannot be ended."""
        if not has_body:
            await self._exchange.send({"type": "http.request", "body": b"", "more_body": False})
            await self._guarded(self._download())
            return
        upload = asyncio.ensure_future(self._upload())
        download = asyncio.ensure_future(self._guarded(self._download()))
        try:
            await asyncio.wait((upload, download), return_when=asyncio.FIRST_COMPLETED)
            if upload.done() and (wrong := upload.exception()) is not None and not download.done():
                download.cancel()
                await asyncio.wait((download,))
                await self._fail(wrong)
                return
            await download
        finally:
            for task in (upload, download):
                task.cancel()
            await asyncio.gather(upload, download, return_exceptions=True)

    async def _upload(self) -> None:
        left = self._limits.body_bytes
        if self._wanted is not None:
            await self._wanted.wait()
        while True:
            try:
                async with asyncio.timeout(self._limits.body_timeout_s):
                    event = await self._receive()  # here the server says 100 Continue
            except TimeoutError:
                raise Problem(408, "The body did not arrive in time.", ((b"connection", b"close"),)) from None
            if event["type"] != "http.request":
                return
            left -= len(event.get("body", b""))
            if left < 0:
                raise Problem(413, "The body is larger than this gateway takes.", ((b"connection", b"close"),))
            await self._exchange.send(event)
            if not event.get("more_body", False):
                return

    async def _guarded(self, download: object) -> None:
        try:
            await download  # type: ignore[misc]
        except (ShardwrightError, Problem, ValueError) as error:
            await self._fail(error)

    async def _fail(self, error: BaseException) -> None:
        if self.complete:
            return
        if self.status:
            raise Aborted from error
        if isinstance(error, ValueError):
            error = _NONSENSE
        problem = problem_of(error) if isinstance(error, Exception) else problem_of(Exception())
        self.status = problem.status
        self.complete = True
        await respond_problem(self._send, problem, self._trace_id)

    async def _download(self) -> None:
        until_s = None if self._timeout_s is None else asyncio.get_running_loop().time() + self._timeout_s
        while not self.complete:
            event = await (
                self._exchange.receive() if until_s is None or self.status else _in_time(self._exchange, until_s)
            )
            if event is None:
                self.returned = True
                if self.status:
                    raise Aborted
                raise Problem(500, "The application gave no answer.")
            await self._pass_on(event)

    async def _pass_on(self, event: dict[str, object]) -> None:
        kind = event["type"]
        if kind == "http.response.start" and not self.status:
            status = event["status"]
            if not isinstance(status, int) or not 200 <= status <= 599:
                raise _NONSENSE
            headers = safe_headers(event.get("headers", ()))
            self.status = status
            self._trailers = bool(event.get("trailers"))
            self._answered()
            await self._send({**event, "headers": [*headers, *self._extra]})
        elif kind == "http.response.body" and self.status:
            if not event.get("more_body") and not self._trailers:
                self.complete = True
            await self._send(event)
        elif kind == "http.response.trailers" and self._trailers:
            trailers = safe_headers(event.get("headers", ()))
            if not event.get("more_trailers"):
                self.complete = True
            await self._send({**event, "headers": trailers})
        elif kind == CONTINUE and self._wanted is not None:
            self._wanted.set()
        elif kind != "http.response.early_hint":
            raise _NONSENSE

    async def finish(self) -> None:
        """Let the application go on after its response (background work) until it returns."""
        try:
            if not self.returned:
                await self._exchange.send({"type": "http.disconnect"})
                while await self._exchange.receive() is not None:
                    pass
        except (ShardwrightError, ValueError):
            pass  # its response is out; what it does behind it is in the log of its shard
        finally:
            self._exchange.cancel()


async def deny(send: Send, problem: Problem, trace_id: bytes, extensions: object) -> None:
    """Refuse a WebSocket before it is accepted: with a response, where the server can."""
    if not isinstance(extensions, dict) or "websocket.http.response" not in extensions:
        await send({"type": "websocket.close", "code": 1008})
        return
    headers: Headers = [(b"content-type", b"application/problem+json"), (TRACE_HEADER, trace_id.hex().encode())]
    headers += problem.headers
    await send({"type": "websocket.http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": problem.body(trace_id)})


class WebSocketPump:
    """One WebSocket. ``code`` is how it was closed; None: the connection broke."""

    def __init__(
        self,
        exchange: Exchange,
        receive: Receive,
        send: Send,
        trace_id: bytes,
        extra: tuple[tuple[bytes, bytes], ...],
        extensions: object,
        accepted: Callable[[], None],
        *,
        timeout_s: float | None = None,
    ) -> None:
        self._exchange = exchange
        self._receive = receive
        self._send = send
        self._trace_id = trace_id
        self._extra = (*extra, (TRACE_HEADER, trace_id.hex().encode()))
        self._extensions = extensions
        self._accepted = accepted
        self._timeout_s = timeout_s  # to accept
        self._state = "asked"  # asked, open, denying, over
        self.code: int | None = None
        self.gone = False

    async def run(self) -> None:
        """Until either side closed it and the application returned, or the client is gone."""
        upload = asyncio.ensure_future(self._upload())
        try:
            await self._download()
        except (ShardwrightError, Problem, ValueError) as error:
            await self._fail(error)
        except OSError:
            pass  # the server says so when the client has left
        finally:
            upload.cancel()
            await asyncio.gather(upload, return_exceptions=True)

    async def _upload(self) -> None:
        try:
            while True:
                event = await self._receive()
                if event["type"] == "websocket.disconnect":
                    self.gone = True
                    if self._state == "open":
                        self.code, self._state = event.get("code", 1005), "over"
                    await self._exchange.send({**event, "code": event.get("code") or 1005})
                    return
                await self._exchange.send(event)
        except ShardwrightError:
            pass  # the other direction hears of it too, and acts

    async def _download(self) -> None:
        until_s = None if self._timeout_s is None else asyncio.get_running_loop().time() + self._timeout_s
        while True:
            event = await (
                self._exchange.receive()
                if until_s is None or self._state != "asked"
                else _in_time(self._exchange, until_s)
            )
            if event is None:
                if self._state == "asked" and not self.gone:
                    raise Problem(500, "The application gave no answer.")
                return
            if not self.gone:
                await self._pass_on(event)

    async def _pass_on(self, event: dict[str, object]) -> None:
        kind = event["type"]
        if kind == "websocket.accept" and self._state == "asked":
            headers = safe_headers(event.get("headers", ()))
            subprotocol = event.get("subprotocol")
            if subprotocol is not None:
                safe_headers([(b"sec-websocket-protocol", str(subprotocol).encode("latin-1", "strict"))])
            self._state = "open"
            self._accepted()
            await self._send({**event, "headers": [*headers, *self._extra]})
        elif kind == "websocket.send" and self._state == "open":
            await self._send(event)
        elif kind == "websocket.close" and self._state in ("asked", "open"):
            code = event.get("code") or 1000
            self.code = code if isinstance(code, int) else 1000
            self._state = "over"
            await self._send(event)
        elif kind == "websocket.http.response.start" and self._state == "asked":
            status = event["status"]
            if not isinstance(status, int) or not 200 <= status <= 599:
                raise _NONSENSE
            headers = [pair for pair in safe_headers(event.get("headers", ())) if pair[0] != b"content-length"]
            self._state = "denying"
            await self._send({**event, "headers": [*headers, *self._extra]})
        elif kind == "websocket.http.response.body" and self._state == "denying":
            if not event.get("more_body"):
                self._state = "over"
            await self._send(event)
        else:
            raise _NONSENSE

    async def _fail(self, error: Exception) -> None:
        if self.gone:
            return
        if self._state == "asked":
            self._state = "over"
            problem = _NONSENSE if isinstance(error, ValueError) else problem_of(error)
            await deny(self._send, problem, self._trace_id, self._extensions)
        elif self._state == "open" and not isinstance(error, Raised):
            # An application that raises breaks the connection, as it does under other servers; a lost shard is said.
            self._state, self.code = "over", 1011
            await self._send({"type": "websocket.close", "code": 1011, "reason": ""})
