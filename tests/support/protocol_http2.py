"""One request over HTTP/2, observed as the same request over HTTP/1.1 is."""

from __future__ import annotations

import socket
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings

from protocol_wire import PATIENCE_S, Request, Response

__all__ = ["Http2"]


class Http2:
    """A connection of a client that knows that the server speaks it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=PATIENCE_S)
        self.conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="latin-1"))
        self.conn.initiate_connection()
        self.events: dict[int, list[Any]] = {}
        self.over = False
        self.flush()

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Http2:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def flush(self) -> None:
        self.socket.sendall(self.conn.data_to_send())

    def begin(self, request: Request, case: str, *, whole: bool = True) -> int:
        """Send a request; returns its stream."""
        stream: int = self.conn.get_next_available_stream_id()
        self.events[stream] = []
        body = request.body if request.chunks is None else b"".join(request.chunks)
        headers: list[tuple[str, str | bytes]] = [
            (":method", request.method),
            (":scheme", "http"),
            (":authority", "probe.test"),
            (":path", request.target),
            ("x-case", case),
            *((name.lower(), value.encode("latin-1")) for name, value in request.headers),
        ]
        if request.body is not None:
            headers.append(("content-length", str(len(request.body))))
        self.conn.send_headers(stream, headers, end_stream=whole and body is None)
        self.flush()
        if body is not None:
            self.send(stream, body, last=whole)
        return stream

    def send(self, stream: int, body: bytes, *, last: bool) -> None:
        while body:
            window = min(self.conn.local_flow_control_window(stream), self.conn.max_outbound_frame_size)
            if not window:
                self._read()
                continue
            piece, body = body[:window], body[window:]
            self.conn.send_data(stream, piece)
            self.flush()
        if last:
            self.conn.end_stream(stream)
        self.flush()

    def reset(self, stream: int) -> None:
        self.conn.reset_stream(stream, 8)
        self.flush()

    def _read(self) -> None:
        data = self.socket.recv(2**17)
        if not data:
            self.over = True
            return
        for event in self.conn.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                self.conn.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
            if isinstance(event, h2.events.ConnectionTerminated):
                self.over = True
            stream = getattr(event, "stream_id", None)
            if stream in self.events:
                self.events[stream].append(event)
        self.flush()

    def wait(self, stream: int, *kinds: type) -> bool:
        """Read until an event of one of ``kinds`` came on that stream; False: the connection ended before."""
        while not self.over:
            if any(isinstance(each, kinds) for each in self.events[stream]):
                return True
            self._read()
        return False

    def response(self, stream: int) -> Response | None:
        """The whole response, or as much as came before the stream was reset; None: nothing did."""
        self.wait(stream, h2.events.StreamEnded, h2.events.StreamReset)
        found = None
        for event in self.events[stream]:
            match event:
                case h2.events.ResponseReceived():
                    headers = [(str(name), str(value)) for name, value in event.headers or ()]
                    status = int(dict(headers)[":status"])
                    found = Response(status, [pair for pair in headers if pair[0] != ":status"], "stream", whole=False)
                case h2.events.DataReceived() if found is not None:
                    found.body += event.data or b""
                case h2.events.TrailersReceived() if found is not None:
                    found.trailers = [(str(name), str(value)) for name, value in event.headers or ()]
                case h2.events.StreamEnded() if found is not None:
                    found.whole = True
                case _:
                    pass
        return found
