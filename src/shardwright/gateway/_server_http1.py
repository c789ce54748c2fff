"""HTTP/1.1 as uvicorn speaks it, with limits on what a client may send and how long it may take."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from shardwright.gateway._front_asgi import TRACE_HEADER, trace_of
from shardwright.gateway._problems import PROBLEM_TYPE, Problem
from shardwright.gateway._server_connection import GatewayState, Running, Watched
from shardwright.gateway._server_direct import DirectCycle
from shardwright.gateway._server_http1_out import Cork, without_chunks
from shardwright.gateway._server_http2 import PREFACE, Http2Protocol

__all__ = ["Http1Protocol"]

_FRAMING_BYTES = 32  # that each piece of a body may take to be framed: a size in hexadecimal digits, and two line ends
LINGER_S = 0.5  # an idle connection is kept so long after the drain began: its next request may be on the way


class _Refused(Exception):
    """Raised in a callback of the parser, which then stops."""


class Http1Protocol(Watched, HttpToolsProtocol, asyncio.BufferedProtocol):
    """One connection. It becomes another protocol's when the client speaks HTTP/2 or asks for a WebSocket.

    What arrives is read into one buffer for all connections: for one made anew, asyncio allocates 256 KiB for each read.
    ``sweep`` is called now and then: it ends a head that does not come to its end, and a response that nobody reads.
    """

    alpn_protocols = ("h2", "http/1.1")

    def __init__(
        self,
        config: Config,
        server_state: GatewayState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._state = server_state
        self.limits = server_state.limits
        self._running = Running(config.loaded_app)
        self.app = self._running
        self._refusal = 0
        self._greeting: bytes | None = b""  # until it is known which protocol the client speaks
        self._waits_since_s = self.loop.time()  # for a head, or for the first byte
        self._in_head = True
        self._heads = 0  # that were complete
        self._head_bytes = 0
        self._chunk_bytes = 0
        self._in_body = False
        self._framing = 0  # bytes that arrived for the current body and are not of it
        self._trailers = 0
        self._trailer_bytes = 0
        self._idle_since_s = 0.0  # after an answer; what begins no request (empty lines do not) changes nothing
        self._closes_at_s = 0.0
        self._direct: DirectCycle | None = None  # the last that was answered without a task, if any
        self._current: RequestResponseCycle | None = None  # the request that is being answered; others wait behind it

    # -- connection ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._cork = Cork(transport, self.loop)
        if len(self.connections) > self.limits.connections:
            self._refuse(503)
            return
        if self.scheme == "https":
            secured = transport.get_extra_info("ssl_object")
            self._greeting = None
            if secured is not None and secured.selected_alpn_protocol() == "h2":
                self._become_http2(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._running.gone()
        if self._direct is not None:
            self._direct.gone()
        self.pipeline.clear()

    def _become_http2(self, received: bytes) -> None:
        self.connections.discard(self)
        self._in_head = False
        protocol = Http2Protocol(self.config, self._state, self.loop)
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        if received:
            protocol.data_received(received)

    def shutdown(self) -> None:
        """Answer what was asked, keep nothing alive; a connection that is silent by now is closed a little later."""
        if self._answering():
            self.cycle.keep_alive = False
        else:
            self.loop.call_later(LINGER_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not self._answering():
            self.transport.close()

    def _answering(self) -> bool:
        """Whether a request was begun and not yet answered. Its cycle is None before the first one, whatever its type says."""
        return bool(self.cycle) and not self.cycle.response_complete

    def sweep(self, now_s: float) -> None:
        """End what takes too long."""
        if self._closes_at_s:
            if now_s > self._closes_at_s:
                self.transport.abort()
        elif self.stuck_since_s and now_s - self.stuck_since_s > self.limits.idle_timeout_s:
            self.transport.abort()
        elif self._in_head:
            if now_s - self._waits_since_s > self.limits.head_timeout_s:
                if self._head_bytes or self._greeting:
                    self._refuse(408)
                else:
                    self.transport.close()
        elif (
            bool(self.cycle)
            and not self._answering()
            and not self.pipeline
            and now_s - self._idle_since_s > self.timeout_keep_alive
        ):
            self.transport.close()

    # -- what arrives ----------------------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._state.arrived

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._state.arrived[:nbytes]))

    def data_received(self, data: bytes) -> None:
        if self._greeting is not None:
            data = self._greeting + data
            if len(data) < len(PREFACE) and PREFACE.startswith(data):
                self._greeting = data
                return
            self._greeting = None
            if data.startswith(PREFACE):
                self._become_http2(data)
                return
        if self._refusal:
            return
        was_in_head, heads = self._in_head, self._heads
        self._chunk_bytes = len(data)
        self._framing += len(data)
        self._parse(data)
        if self._in_head:
            if not was_in_head or self._heads != heads:  # it began with these bytes
                self._head_bytes = 0
                self._waits_since_s = self.loop.time()
            self._head_bytes += len(data)
            if self._head_bytes > self.limits.head_bytes and not self._refusal:
                self._refuse(431)
        elif self._heads != heads:
            self._framing = 0  # what came with the head is no more than one read
        elif self._framing > self.limits.head_bytes and self._in_body and not self._refusal:
            self._refuse(400)

    def _parse(self, data: bytes) -> None:
        """As in uvicorn, but that what follows an upgrade is parsed: by who speaks from then on."""
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self._should_upgrade():
                    self.handle_websocket_upgrade()
                    rest, now = data[upgrade.args[0] :], self.transport.get_protocol()
                    if rest and now is not self and isinstance(now, asyncio.Protocol):
                        now.data_received(rest)
                    return
                data = data[upgrade.args[0] :]
            except httptools.HttpParserError:
                self._refuse(self._refusal or 400)
                return
            else:
                return

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._current = cycle
        if cycle.scope["http_version"] == "1.0":
            app = partial(without_chunks, app, cycle)
        cycle.transport = self._cork  # type: ignore[assignment]
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """As in uvicorn, but ``sweep`` ends what is idle: a timer for each answer costs more than a look now and then."""
        self._state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._idle_since_s = self.loop.time()

    def on_message_begin(self) -> None:
        """As in uvicorn, but for the scope, which is made where it is needed."""
        if len(self.pipeline) >= self.limits.pipelined:
            self._refusal = 429
            raise _Refused
        self._in_head = True
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """As in uvicorn, but for trailers, which come the same way: they are counted, and never join the headers.

        ASGI has no place for those of a request. A value ends before the blanks behind it.
        """
        if not self._in_head:
            self._count_trailer(name, value)
            return
        name = name.lower()
        value = value.rstrip(b" \t")
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def _count_trailer(self, name: bytes, value: bytes) -> None:
        self._trailers += 1
        self._trailer_bytes += len(name) + len(value) + 4
        if self._trailers > self.limits.fields or self._trailer_bytes > self.limits.head_bytes:
            self._refusal = 431
        elif name.lower() == b"connection":
            self._refusal = 400  # it would govern the connection, behind the back of whoever judged the head
        if self._refusal:
            raise _Refused

    def on_body(self, body: bytes) -> None:
        self._framing -= len(body) + _FRAMING_BYTES
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        cycle: object = self.cycle
        if not isinstance(cycle, DirectCycle):  # which has no body
            super().on_message_complete()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._in_body = True
        self._framing = self._trailers = self._trailer_bytes = 0
        self._heads += 1
        if len(self.url) > self.limits.target_bytes:
            self._refusal = 414
        elif len(self.headers) > self.limits.fields or (
            self._head_bytes + self._chunk_bytes > self.limits.head_bytes
            and sum(len(name) + len(value) + 4 for name, value in self.headers) > self.limits.head_bytes
        ):
            self._refusal = 431
        elif (version := self.parser.get_http_version()) not in ("1.1", "1.0"):
            self._refusal = 505
        else:
            names = [name for name, _ in self.headers]
            if version == "1.1" and names.count(b"host") != 1:
                self._refusal = 400
            elif b"transfer-encoding" in names:
                self._refusal = self._refused_coding(version)
            if not self.url.startswith(b"/"):
                self._name_host()
        self._head_bytes = 0
        if self._refusal:
            raise _Refused
        if version == "1.1" and self._answer_directly():
            return
        if self.parser.should_upgrade() and self._should_upgrade() and self._upgrade_is_mixed():
            self._refusal = 400
            raise _Refused
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.headers += headers
        self.url, self.expect_100_continue = url, expects
        super().on_headers_complete()
        if self._state.draining and bool(self.cycle):
            self.cycle.keep_alive = False

    def _refused_coding(self, version: str) -> int:
        """Why a body cannot be read as it is coded: a status, or 0. RFC 9112, 6.1 and 6.3: HTTP/1.0 has no such thing, and
        only chunks, put on last, say where a body ends.
        """
        lines = [value for name, value in self.headers if name == b"transfer-encoding"]
        codings = [coding.strip(b" \t").lower() for coding in lines[0].split(b",")]
        if version == "1.0" or len(lines) > 1 or codings[-1] != b"chunked" or codings.count(b"chunked") > 1:
            return 400
        return 0 if len(codings) == 1 else 501

    def _name_host(self) -> None:
        """A target with an authority in it says which host is meant, whatever ``Host`` says (RFC 9112, 3.2.2)."""
        scheme, found, rest = self.url.partition(b"://")
        if found and scheme.lower() in (b"http", b"https"):
            authority = rest.partition(b"/")[0].partition(b"?")[0].rpartition(b"@")[2]
            self.headers = [(name, authority if name == b"host" else value) for name, value in self.headers]

    def _answer_directly(self) -> bool:
        """Begin what the request asks for without a task of its own, if that is possible."""
        before, url = self.cycle, self.url
        if (
            (bool(before) and not before.response_complete)
            or self.flow.write_paused
            or self.parser.should_upgrade()
            or not url.startswith(b"/")
            or b"#" in url
            or not url.isascii()
        ):
            return False
        method = self.parser.get_method().decode()
        keep_alive = self.parser.should_keep_alive() and not self._state.draining
        cycle = DirectCycle(self._state, self._answered, method == "HEAD", keep_alive)
        self._direct = cycle
        self.cycle = self._current = cycle  # type: ignore[assignment]
        cycle.call = self._state.functions.begin(method, url, self.headers, cycle)
        if cycle.call is None and not cycle.response_complete:
            self.cycle = before
            return False
        return True

    def _upgrade_is_mixed(self) -> bool:
        """Whether what asks for a WebSocket has a body, or comes behind a request that is not answered yet."""
        given = dict(self.headers)
        return (
            b"transfer-encoding" in given
            or given.get(b"content-length", b"0") != b"0"
            or (self._current is not None and not self._current.response_complete)
        )

    def _answered(self, cycle: DirectCycle, response: bytes | None) -> None:
        if cycle.disconnected:
            return
        if response is None:
            self.transport.abort()
            return
        self._cork.flush()
        self.transport.write(response)
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def handle_websocket_upgrade(self) -> None:
        if self._state.draining:
            self._refuse(503)
            return
        super().handle_websocket_upgrade()

    # -- refusals --------------------------------------------------------------------------------------------------

    def _refuse(self, status: int) -> None:
        """Answer what is no request and close; behind the answers to requests before it nothing more is said."""
        self._refusal = status
        self._in_head = False
        self.pipeline.clear()
        current = self._current
        if current is not None and not current.response_complete:
            current.keep_alive = False
            if current is self.cycle and current.more_body and not current.response_started:
                # It is the body of this very request that cannot be read: what runs for it may say nothing any more.
                current.disconnected = True
                self._running.gone()
            else:
                self.flow.resume_reading()  # and discard, so that the end of the connection is noticed
                return
        self._cork.flush()
        trace_id = trace_of(None)
        problem = Problem(status)
        body = problem.body(trace_id)
        head = [
            b"HTTP/1.1 %d %s\r\n" % (status, _PHRASES[status]),
            *(b"%s: %s\r\n" % pair for pair in self.server_state.default_headers),
            b"content-type: %s\r\ncontent-length: %d\r\n" % (PROBLEM_TYPE, len(body)),
            b"%s: %s\r\nconnection: close\r\n\r\n" % (TRACE_HEADER, trace_id.hex().encode()),
            body,
        ]
        self.transport.write(b"".join(head))
        if self.scheme == "https":
            self.transport.close()
        else:
            # Closed with bytes unread, the connection would be reset, and the client might never see why.
            self.transport.write_eof()
            self._closes_at_s = self.loop.time() + LINGER_S


_PHRASES = {
    400: b"Bad Request",
    408: b"Request Timeout",
    414: b"URI Too Long",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    501: b"Not Implemented",
    503: b"Service Unavailable",
    505: b"HTTP Version Not Supported",
}
