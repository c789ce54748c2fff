"""Runs a WSGI application in a shard (PEP 3333): it sees what it sees under a server of its own.

The application is a call of the shard: it runs on a thread of the mailbox, under the baton. The baton is put down while the
thread waits for bytes of the client, or for room to send: there another call of the shard may come in, and nowhere else.
"""

from __future__ import annotations

import io
import logging
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from shardwright.guest._asgi import BadApplication
from shardwright.guest._exchange import PIECE, pieces
from shardwright.guest._web_messages import (
    ApplicationEvent,
    Headers,
    HttpRequest,
    Open,
    ResponseBody,
    ResponseStart,
    check_headers,
)
from shardwright.guest._web_stream import Stream

__all__ = ["ClientGone", "FileWrapper", "WsgiExchange"]

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]
WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_STATUS = re.compile(r"[2-5][0-9]{2}(?: [\t\x20-\x7e\x80-\xff]*)?")
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailers",
        "transfer-encoding",
        "upgrade",
    }
)
log = logging.getLogger("shardwright.web")


class Baton(Protocol):
    def release(self) -> None: ...

    def acquire(self) -> None: ...


class ClientGone(ConnectionResetError):
    """The client, or the gateway, is gone before the whole request was read, or the whole response sent."""


class WsgiExchange:
    """One call of an application."""

    def __init__(self, stream: Stream, baton: Baton, *, many: bool) -> None:
        """``many``: the application may run in other processes too."""
        self.stream = stream
        self._baton = baton
        self._many = many
        self._is_head = stream.opened.method == "HEAD"
        self._start: ResponseStart | None = None
        self._sent_start = False
        self._expected: int | None = None  # bytes of the body that the headers promise, less what was sent
        self._complete = False
        self._body_ends = False
        self._reading = io.BufferedReader(_Body(self), PIECE)

    def run(self, app: WsgiApp) -> None:
        """Call the application and send what it gives. Raises what it raises; a client that went is no error."""
        try:
            result = app(self._environ(), self._start_response)
            try:
                for chunk in result:
                    self.write(chunk)
                self._finish()
            finally:
                close = getattr(result, "close", None)
                if close is not None:
                    close()
        except ClientGone:
            log.debug("the client of %s %s is gone", self.stream.opened.method, self.stream.opened.path)

    # -- the response ------------------------------------------------------------------------------------------

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        if exc_info is not None:
            try:
                if self._sent_start:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # no cycle through this frame
        elif self._start is not None:
            raise AssertionError("Response headers already set!")
        if not isinstance(status, str):
            raise TypeError(f"{status!r:.100} is not a string")
        if not _STATUS.fullmatch(status):
            raise ValueError(f"Invalid status {status!r:.100}")
        kept, expected = _headers(headers)
        code = int(status[:3])
        self._expected = None if self._is_head or code in (204, 304) else expected
        self._start = ResponseStart(code, kept)
        return self.write

    def write(self, chunk: bytes) -> None:
        """What PEP 3333 calls ``write``. Raises ClientGone."""
        if not isinstance(chunk, bytes):
            raise TypeError(f"{chunk!r:.100} is not a bytes object")
        if self._start is None:
            raise AssertionError("start_response() was not called before the first part of the body")
        if self.stream.gone is not None:
            raise ClientGone("the client is gone")
        if self._expected is not None:
            chunk = chunk[: self._expected]  # more than was promised would be taken for the next response
            self._expected -= len(chunk)
        if not chunk:
            return
        self._complete = self._expected == 0  # as promised: the client need not wait for what comes after
        self._send(ResponseBody(b"" if self._is_head else chunk, more_body=not self._complete))

    def _finish(self) -> None:
        if self._start is None:
            raise BadApplication("the WSGI application never called start_response()", outcome="failed")
        if self._expected:
            raise BadApplication(
                f"the response is {self._expected} bytes shorter than its Content-Length", outcome="failed"
            )
        if self.stream.gone is None and not self._complete:
            self._send(ResponseBody())

    def _send(self, body: ResponseBody) -> None:
        events: list[ApplicationEvent] = [body]
        if not self._sent_start:
            assert self._start is not None
            events.insert(0, self._start)
            self._sent_start = True
        if self._is_head and body.more_body:
            events.pop()  # nobody is to see it
        reserved: list[bytes] = []
        for event in events:
            for piece in pieces(event):
                if not self.stream.reserve(piece):
                    self.stream.send(reserved)
                    reserved = []
                    self._wait_for_room(piece)
                reserved.append(piece)
        self.stream.send(reserved)

    def _wait_for_room(self, piece: bytes) -> None:
        while not self.stream.reserve(piece):
            self._wait(lambda: self.stream.tight(piece))
            if self.stream.gone is not None:
                raise ClientGone("the client is gone")

    def _wait(self, still: Callable[[], bool]) -> None:
        """Wait for a change of the stream, with the baton put down."""
        changed = threading.Lock()
        changed.acquire()
        if not self.stream.when_changed(changed.release, still):
            return
        self._baton.release()
        try:
            changed.acquire()
        finally:
            self._baton.acquire()

    # -- the request -------------------------------------------------------------------------------------------

    def next_chunk(self) -> bytes:
        """More of the request's body; nothing at its end. Raises ClientGone."""
        while True:
            event = self.stream.take()
            if isinstance(event, HttpRequest):
                if event.body or not event.more_body:
                    self._body_ends = not event.more_body
                    return event.body
            elif self.stream.gone is not None:
                raise ClientGone("the client is gone before it sent the whole request")
            else:
                self.stream.want()
                self._wait(lambda: self.stream.quiet)

    @property
    def body_ended(self) -> bool:
        return self._body_ends

    def _environ(self) -> dict[str, Any]:
        opened = self.stream.opened
        environ: dict[str, Any] = dict(_variables(opened))
        environ.update(
            {
                "wsgi.version": (1, 0),
                "wsgi.url_scheme": opened.scheme,
                "wsgi.input": self._reading,
                "wsgi.errors": sys.stderr,
                "wsgi.multithread": True,  # where one call waits for its client another may run
                "wsgi.multiprocess": self._many,
                "wsgi.run_once": False,
                "wsgi.file_wrapper": FileWrapper,
                "wsgi.input_terminated": True,
            }
        )
        return environ


def _variables(opened: Open) -> Iterator[tuple[str, str]]:
    """The variables of CGI, each a str of Latin-1 characters, as PEP 3333 wants them."""
    root = opened.root_path.rstrip("/")
    raw = opened.raw_path or opened.path.encode()
    path = unquote_to_bytes(raw).decode("latin-1")
    script = root.encode().decode("latin-1")
    if script and path.startswith(script):
        path = path[len(script) :]
    yield "REQUEST_METHOD", opened.method
    yield "SCRIPT_NAME", script
    yield "PATH_INFO", path
    yield "QUERY_STRING", opened.query_string.decode("latin-1")
    query = f"?{opened.query_string.decode('latin-1')}" if opened.query_string else ""
    yield "RAW_URI", raw.decode("latin-1") + query
    yield "REQUEST_URI", raw.decode("latin-1") + query
    yield "SERVER_PROTOCOL", f"HTTP/{opened.http_version}" if "." in opened.http_version else "HTTP/2.0"
    yield "SERVER_SOFTWARE", "shardwright"
    server, port = opened.server or ("localhost", None)
    yield "SERVER_NAME", server
    yield "SERVER_PORT", str(port if port is not None else 443 if opened.scheme == "https" else 80)
    if opened.client is not None:
        yield "REMOTE_ADDR", opened.client[0]
        yield "REMOTE_PORT", str(opened.client[1])
    yield from _header_variables(opened.headers)


def _header_variables(headers: Headers) -> Iterator[tuple[str, str]]:
    joined: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if "_" in name:
            continue  # it would pass for the header that is spelt with a hyphen
        key = name.upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = f"HTTP_{key}"
        elif key in joined:
            continue
        if key in joined:
            value = f"{joined[key]}{'; ' if key == 'HTTP_COOKIE' else ','}{value}"
        joined[key] = value
    yield from joined.items()


def _headers(found: Iterable[tuple[str, str]]) -> tuple[Headers, int | None]:
    """The headers as bytes, and the length that they promise. Raises TypeError, ValueError."""
    kept: list[tuple[bytes, bytes]] = []
    expected = None
    for name, value in found:
        for text in (name, value):
            if not isinstance(text, str):
                raise TypeError(f"{text!r:.100} is not a string")
        low = name.lower()
        if low in _HOP_BY_HOP:
            continue  # the connection is the gateway's
        if low == "content-length":
            if not re.fullmatch("[0-9]{1,18}", value.strip()):
                raise ValueError(f"Invalid Content-Length {value!r:.60}")
            expected = int(value)
        kept.append((name.encode("latin-1"), value.strip(" \t").encode("latin-1")))
    check_headers(kept)
    return tuple(kept), expected


class FileWrapper:
    """``wsgi.file_wrapper``: a file as the body of a response."""

    def __init__(self, filelike: Any, blksize: int = 8192) -> None:
        self.filelike = filelike
        self.blksize = blksize
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        found: bytes = self.filelike.read(self.blksize)
        if found:
            return found
        raise StopIteration


class _Body(io.RawIOBase):
    """The body of a request, as the bytes come."""

    def __init__(self, exchange: WsgiExchange) -> None:
        self._exchange = exchange
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest and not self._exchange.body_ended:
            self._rest = memoryview(self._exchange.next_chunk())
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
