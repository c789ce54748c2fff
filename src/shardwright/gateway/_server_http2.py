"""HTTP/2 on ``h2``, for the same server: streams become requests of the front.

``h2`` keeps the protocol's state and judges what the peer sends; here are tasks, flow control and patience. A body is credited
when it is taken, so that one stream holds no more than its window; a response waits for the peer's window. Resets, pings and
settings cost a peer a budget that grows slowly: whoever opens and resets streams without end is sent away.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import H2Error, ProtocolError
from h2.settings import SettingCodes, Settings
from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from shardwright.gateway._problems import Problem
from shardwright.gateway._server_connection import GatewayState, Watched
from shardwright.gateway._server_http2_stream import Stream

__all__ = ["PREFACE", "Http2Protocol"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
STREAM_WINDOW = 64 * 2**10 - 1
CONNECTION_WINDOW = 2**20
MAX_FRAME = 2**14
NUISANCES = 400  # resets, pings, settings, empty frames that a peer may send at once
NUISANCES_PER_S = 40


class Http2Protocol(Watched, asyncio.Protocol):
    """One connection."""

    def __init__(self, config: Config, server_state: GatewayState, loop: asyncio.AbstractEventLoop) -> None:
        self.app = config.loaded_app
        self.loop = loop
        self.server_state = server_state
        self.connections: set[Any] = server_state.connections
        self.limits = server_state.limits
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self.writable = asyncio.Event()
        self.writable.set()
        self.conn = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self.conn.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: self.limits.streams,
                SettingCodes.MAX_HEADER_LIST_SIZE: self.limits.head_bytes,
                SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                SettingCodes.MAX_FRAME_SIZE: MAX_FRAME,
                SettingCodes.ENABLE_CONNECT_PROTOCOL: 0,
            },
        )
        self.conn.decoder.max_header_list_size = self.limits.head_bytes
        self.streams: dict[int, Stream] = {}
        self._in_frame = len(PREFACE)  # bytes to come of the frame that has begun
        self._head = b""  # of the next one, while it is incomplete
        self._draining = False
        self._nuisances = 0.0
        self._judged_s = self._idle_since_s = loop.time()

    # -- connection ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.connections.add(self)
        self.server = get_local_addr(transport)
        self.client = get_remote_addr(transport)
        self.scheme = "https" if is_ssl(transport) else "http"
        self.conn.initiate_connection()
        self.conn.increment_flow_control_window(CONNECTION_WINDOW - 65535)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.discard(self)
        self.writable.set()
        for stream in tuple(self.streams.values()):
            stream.gone()
        self.streams.clear()

    def eof_received(self) -> None:
        return None

    def pause_writing(self) -> None:
        super().pause_writing()
        self.writable.clear()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.writable.set()

    def shutdown(self) -> None:
        """Take no new streams, close when the last one has ended."""
        self._draining = True
        if not self.streams:
            self._leave(ErrorCodes.NO_ERROR)

    def sweep(self, now_s: float) -> None:
        """End what takes too long."""
        limit_s = self.limits.idle_timeout_s
        if self.stuck_since_s and now_s - self.stuck_since_s > limit_s:
            self.transport.abort()
        elif not self.streams and now_s - self._idle_since_s > limit_s:
            self._leave(ErrorCodes.NO_ERROR)
        for stream in tuple(self.streams.values()):
            if stream.stuck_since_s and now_s - stream.stuck_since_s > limit_s:
                self.reset(stream, ErrorCodes.CANCEL)

    def flush(self) -> None:
        data = self.conn.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def _leave(self, code: ErrorCodes) -> None:
        try:
            self.conn.close_connection(code)
        except ProtocolError:
            pass  # it was said already
        self.flush()
        self.transport.close()

    # -- what arrives ----------------------------------------------------------------------------------------------

    def _measure(self, data: bytes) -> bool:
        """Whether all frames are as small as agreed. ``h2`` judges a frame when it is whole: 16 MiB too late."""
        at = self._in_frame
        while at < len(data):
            head = self._head + data[at : at + 9 - len(self._head)]
            if len(head) < 9:
                self._head = head
                break
            length = int.from_bytes(head[:3], "big")
            if length > MAX_FRAME:
                return False
            at += 9 - len(self._head) + length
            self._head = b""
        else:
            self._in_frame = at - len(data)
            return True
        self._in_frame = 0
        return True

    def data_received(self, data: bytes) -> None:
        if not self._measure(data):
            self._leave(ErrorCodes.FRAME_SIZE_ERROR)
            return
        try:
            events = self.conn.receive_data(data)
        except (ProtocolError, ValueError):
            self.flush()  # a GOAWAY that says why
            self.transport.close()
            return
        for event in events:
            self._heard(event)
            if self.transport.is_closing():
                return
        self.flush()

    def _heard(self, event: Event) -> None:
        match event:
            case RequestReceived():
                self._request(event)
            case DataReceived():
                stream = self.streams.get(event.stream_id)
                length = event.flow_controlled_length or 0
                if not event.data:
                    self._nuisance()
                if stream is None:
                    self.credit(0, length)
                else:
                    stream.arrived(event.data or b"", length)
            case StreamEnded():
                stream = self.streams.get(event.stream_id)
                if stream is not None:
                    stream.ended()
            case WindowUpdated():
                for stream in self.streams.values():
                    stream.window.set()
            case StreamReset():
                stream = self.streams.pop(event.stream_id, None)
                if stream is not None:
                    stream.gone()
                self._nuisance()
                self._if_last()
            case ConnectionTerminated():
                for stream in tuple(self.streams.values()):
                    stream.gone()
                self.transport.close()
            case TrailersReceived():
                pass
            case _:
                self._nuisance()

    def _nuisance(self) -> None:
        now_s = self.loop.time()
        self._nuisances = max(0.0, self._nuisances - (now_s - self._judged_s) * NUISANCES_PER_S) + 1
        self._judged_s = now_s
        if self._nuisances > NUISANCES:
            self._leave(ErrorCodes.ENHANCE_YOUR_CALM)

    def _request(self, event: RequestReceived) -> None:
        stream_id = event.stream_id
        assert stream_id is not None
        pseudo: dict[bytes, bytes] = {}
        headers: list[tuple[bytes, bytes]] = []
        for name, value in event.headers or ():
            if name.startswith(b":"):
                pseudo[bytes(name)] = bytes(value)
            else:
                headers.append((bytes(name), bytes(value)))
        target = pseudo.get(b":path", b"")
        stream = self.streams[stream_id] = Stream(self, stream_id, pseudo.get(b":method", b""))
        if self._draining:
            self.reset(stream, ErrorCodes.REFUSED_STREAM)
            return
        if b":authority" in pseudo and not any(name == b"host" for name, _ in headers):
            headers.insert(0, (b"host", pseudo[b":authority"]))
        if not target.startswith(b"/") or not target.isascii() or len(headers) > self.limits.fields:
            self.reset(stream, ErrorCodes.PROTOCOL_ERROR)
            return
        raw_path, _, query = target.partition(b"?")
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "2",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "method": stream.method.decode("ascii", "replace"),
            "root_path": "",
            "path": unquote(raw_path.decode("ascii")),
            "raw_path": raw_path,
            "query_string": query,
            "headers": headers,
            "state": {},
            "extensions": {"http.response.trailers": {}},
        }
        refused = None
        if b":protocol" in pseudo:
            refused = Problem(501, "WebSockets are served over HTTP/1.1: connect without offering h2.")
        elif len(target) > self.limits.target_bytes:
            refused = Problem(414)
        task = self.loop.create_task(stream.run(self.app, scope, refused))
        self.server_state.tasks.add(task)
        task.add_done_callback(self.server_state.tasks.discard)

    # -- what streams ask for --------------------------------------------------------------------------------------

    def credit(self, stream_id: int, length: int) -> None:
        """The peer may send so many bytes more."""
        if not length or self.transport.is_closing():
            return
        try:
            if stream_id in self.streams:
                self.conn.acknowledge_received_data(length, stream_id)
            else:
                self.conn.increment_flow_control_window(length)
        except H2Error:
            return
        self.flush()

    def reset(self, stream: Stream, code: ErrorCodes) -> None:
        """End a stream before its time."""
        self.streams.pop(stream.stream_id, None)
        try:
            self.conn.reset_stream(stream.stream_id, code)
        except H2Error:
            pass
        stream.gone()
        self.flush()
        self._if_last()

    def over(self, stream: Stream) -> None:
        """A stream's request was answered."""
        if self.streams.pop(stream.stream_id, None) is not None:
            if not stream.complete:
                self.reset(stream, ErrorCodes.INTERNAL_ERROR)
            elif stream.more_body:  # it was answered before all of the body had come
                self.reset(stream, ErrorCodes.NO_ERROR)
            self.credit(0, stream.uncredited())
        self._if_last()

    def _if_last(self) -> None:
        if not self.streams:
            self._idle_since_s = self.loop.time()
            if self._draining and not self.transport.is_closing():
                self._leave(ErrorCodes.NO_ERROR)
