"""Raw HTTP/1.1 and WebSocket conversations, byte by byte, and what was observed of them in a form that can be compared.

Nothing of a server's own libraries is used here: a mistake that server and test shared would not be seen.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

__all__ = ["PATIENCE_S", "Case", "Gone", "Request", "Response", "Talk", "Wire", "chunk", "observe"]

PATIENCE_S = 15.0
LONGEST_SHOWN = 1500
# Of the connection or of the server, not of the response. How the body was framed, and whether the connection stays
# open, is observed instead.
NOT_COMPARED = frozenset({"date", "server", "connection", "keep-alive", "transfer-encoding", "shardwright-trace"})
WEBSOCKET_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
OPCODES = {0: "continuation", 1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}


class Gone(Exception):
    """The server ended the connection before what was waited for."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks. ``chunks`` in place of ``body``: the body comes in these chunks."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    chunks: tuple[bytes, ...] | None = None
    version: str = "1.1"

    def head(self, case: str) -> bytes:
        lines = [f"{self.method} {self.target} HTTP/{self.version}", "Host: probe.test", f"X-Case: {case}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.chunks is not None:
            lines.append("Transfer-Encoding: chunked")
        elif self.body is not None:
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def encode(self, case: str) -> bytes:
        rest = self.body or b""
        if self.chunks is not None:
            rest = b"".join(map(chunk, self.chunks)) + chunk(b"")
        return self.head(case) + rest


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@dataclass(slots=True)
class Response:
    """What came back. ``framing``: how the end of the body is known; ``whole``: whether that end came."""

    status: int
    headers: list[tuple[str, str]]
    framing: str
    body: bytes = b""
    whole: bool = True
    interim: list[int] = field(default_factory=list)
    trailers: list[tuple[str, str]] = field(default_factory=list)
    version: str = "HTTP/1.1"

    def header(self, name: str) -> str | None:
        return next((value for each, value in self.headers if each == name), None)

    def shown(self) -> dict[str, Any]:
        """The observation. The trace id, new for every request, is checked to be one and taken out."""
        body = self.body
        if self.header("content-type") == "application/json" and self.status == 200:
            told = json.loads(body) if body else None
            if isinstance(told, dict):
                return {**self._shown(b"{}"), **{f"told {name}": value for name, value in told.items()}}
        if self.header("content-type") == "application/problem+json" and body:
            problem = json.loads(body)
            assert problem.pop("trace") == self.header("shardwright-trace")
            body = json.dumps(problem).encode()
        return self._shown(body)

    def _shown(self, body: bytes) -> dict[str, Any]:
        text = body.decode("latin-1")
        headers = [f"{name}: {value}" for name, value in self.headers if name not in NOT_COMPARED]
        found: dict[str, Any] = {
            "status": self.status,
            "headers": headers,
            "framing": self.framing,
            "body": text if len(text) <= LONGEST_SHOWN else f"{len(text)} bytes of {sorted(set(text))}",
            "whole": self.whole,
        }
        if self.version != "HTTP/1.1":
            found["version"] = self.version
        if self.interim:
            found["interim"] = self.interim
        if self.trailers:
            found["trailers"] = self.trailers
        return found


class Wire:
    """One connection, read to the byte."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = b""
        self._ended = False

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """End it at once, with a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, data: bytes) -> None:
        """A server that has hung up already is no error here: what it said is still to be read."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def trickle(self, data: bytes, size: int = 1) -> None:
        for at in range(0, len(data), size):
            self.send(data[at : at + size])

    # -- reading -----------------------------------------------------------------------------------------------

    def _more(self) -> None:
        if self._ended:
            raise Gone
        try:
            data = self.socket.recv(2**18)
        except (ConnectionResetError, BrokenPipeError):
            data = b""  # whether the end is a FIN or a RST hangs on what was left unread, and on time
        if not data:
            self._ended = True
            raise Gone
        self._read += data

    def exactly(self, count: int) -> bytes:
        while len(self._read) < count:
            self._more()
        found, self._read = self._read[:count], self._read[count:]
        return found

    def line(self) -> bytes:
        while b"\r\n" not in self._read:
            self._more()
        found, _, self._read = self._read.partition(b"\r\n")
        return found

    def rest(self) -> bytes:
        """Everything up to the end."""
        try:
            while True:
                self._more()
        except Gone:
            found, self._read = self._read, b""
            return found

    def _fields(self) -> list[tuple[str, str]]:
        found = []
        while line := self.line():
            name, colon, value = line.decode("latin-1").partition(":")
            assert colon and name == name.strip(), f"{line!r} is no header"
            found.append((name.lower(), value.strip()))
        return found

    def head(self, method: str = "GET") -> Response:
        """The head of the next response; interim ones before it are noted in it."""
        interim: list[int] = []
        while True:
            version, _, rest = self.line().decode("latin-1").partition(" ")
            assert version in ("HTTP/1.1", "HTTP/1.0"), version
            status = int(rest[:3])
            headers = self._fields()
            if 100 <= status < 200 and status != 101:
                interim.append(status)
                continue
            return Response(status, headers, self._framing(method, status, headers), interim=interim, version=version)

    @staticmethod
    def _framing(method: str, status: int, headers: list[tuple[str, str]]) -> str:
        names = dict(headers)
        assert [name for name, _ in headers].count("content-length") <= 1
        if method == "HEAD" or status in (101, 204, 304):
            return "none"
        if "chunked" in names.get("transfer-encoding", "").lower():
            assert "content-length" not in names
            return "chunked"
        return "length" if "content-length" in names else "end"

    def response(self, method: str = "GET") -> Response:
        """The next response, as much of it as comes. Raises Gone when nothing does."""
        found = self.head(method)
        self.body(found)
        return found

    def body(self, response: Response) -> None:
        if response.framing == "end":
            response.body = self.rest()
        elif response.framing == "length":
            size = int(response.header("content-length") or 0)
            try:
                response.body = self.exactly(size)
            except (Gone, TimeoutError):
                response.body, self._read, response.whole = self._read, b"", False
        elif response.framing == "chunked":
            parts: list[bytes] = []
            try:
                while part := self.chunk():
                    parts.append(part)
                response.trailers = self._fields()
            except Gone:
                response.whole = False
            response.body = b"".join(parts)

    def chunk(self) -> bytes:
        """The next chunk; empty: the last one, whose trailers come next."""
        size = int(self.line().partition(b";")[0], 16)
        if not size:
            return b""
        found = self.exactly(size)
        assert self.exactly(2) == b"\r\n"
        return found

    def stays_open(self) -> bool:
        """Whether the server takes another request on this connection."""
        if self._ended:
            return False
        self.send(Request("GET", "/ping").encode("ping"))
        try:
            found = self.response()
        except Gone:
            return False
        assert (found.status, found.body) == (200, b"pong"), f"in place of the answer to a ping: {found}"
        return True

    # -- WebSocket ---------------------------------------------------------------------------------------------

    def shake_hands(self, case: str, target: str, *headers: tuple[str, str], **replaced: str) -> Response:
        """Ask for a WebSocket."""
        self.send(self.handshake(case, target, *headers, **replaced))
        found = self.head()
        if found.status != 101:
            self.body(found)
        return found

    @staticmethod
    def handshake(case: str, target: str, *headers: tuple[str, str], **replaced: str) -> bytes:
        fields = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": WEBSOCKET_KEY,
            "Sec-WebSocket-Version": "13",
        }
        method, version = replaced.pop("method", "GET"), replaced.pop("version", "1.1")
        fields.update({name.replace("_", "-"): value for name, value in replaced.items()})
        given = tuple((name, value) for name, value in fields.items() if value)
        return Request(method, target, (*given, *headers), version=version).head(case)

    @staticmethod
    def frame(kind: str | int, payload: bytes = b"", *, last: bool = True, masked: bool = True, bits: int = 0) -> bytes:
        code = kind if isinstance(kind, int) else next(code for code, name in OPCODES.items() if name == kind)
        head = bytes([(0x80 if last else 0) | bits | code])
        mask = 0x80 if masked else 0
        if len(payload) < 126:
            head += bytes([mask | len(payload)])
        elif len(payload) < 65536:
            head += bytes([mask | 126]) + struct.pack("!H", len(payload))
        else:
            head += bytes([mask | 127]) + struct.pack("!Q", len(payload))
        return head + (b"\0\0\0\0" if masked else b"") + payload  # a mask of zeros is a mask

    def say(self, kind: str | int, payload: bytes = b"", **how: Any) -> None:
        self.send(self.frame(kind, payload, **how))

    def frames(self, most: int = 10_000) -> list[str]:
        """What the server says up to its end, or up to ``most`` frames."""
        found: list[str] = []
        try:
            while len(found) < most:
                found.append(self._frame())
        except Gone:
            found.append("the end")
        return found

    def _frame(self) -> str:
        first, second = self.exactly(2)
        assert not second & 0x80, "a server must not mask"
        size = second & 0x7F
        if size >= 126:
            size = int.from_bytes(self.exactly(2 if size == 126 else 8), "big")
        payload = self.exactly(size)
        kind = OPCODES.get(first & 0x0F, f"opcode {first & 0x0F}")
        if kind == "close":
            code = str(int.from_bytes(payload[:2], "big")) if payload else "without a code"
            return f"close {code} {payload[2:].decode()}".strip()
        shown = payload.decode("latin-1") if size <= LONGEST_SHOWN else f"{size} bytes"
        return f"{kind}{'' if first & 0x80 else ' to be continued'}{f' bits {first & 0x70:x}' if first & 0x70 else ''}: {shown}"


class Talk:
    """One case with one server: connections to it, and what was observed."""

    def __init__(self, case: str, address: tuple[str, int]) -> None:
        self.case = case
        self.address = address
        self.seen: dict[str, Any] = {}
        self._wires: list[Wire] = []

    def wire(self) -> Wire:
        """A new connection, closed with the case."""
        self._wires.append(Wire(self.address))
        return self._wires[-1]

    def close(self) -> None:
        for each in self._wires:
            each.close()

    def note(self, what: str, found: Any) -> None:
        assert what not in self.seen
        self.seen[what] = found

    def note_response(self, found: Response | None, number: str = "") -> None:
        for name, value in (found.shown() if found is not None else {"status": "no answer"}).items():
            self.note(f"{name}{number}", value)

    def ask(self, *requests: Request) -> None:
        """Send requests one after the other, each when the one before it was answered; note answers and the connection."""
        with self.wire() as wire:
            for number, each in enumerate(requests):
                wire.send(each.encode(self.case))
                self.answer(wire, each.method, f" {number + 1}" if number else "")
            self.note("open", wire.stays_open())

    def answer(self, wire: Wire, method: str = "GET", number: str = "") -> None:
        try:
            found = wire.response(method)
        except Gone:
            found = None
        self.note_response(found, number)

    def raw(self, data: bytes, *methods: str) -> None:
        """Send bytes as they are; note as many answers as there are methods, and the connection."""
        with self.wire() as wire:
            wire.send(data)
            for number, method in enumerate(methods or ("GET",)):
                self.answer(wire, method, f" {number + 1}" if number else "")
            self.note("open", wire.stays_open())

    def get(self, target: str) -> Response:
        """Beside the case: something that the application tells."""
        with self.wire() as wire:
            wire.send(Request("GET", target).encode("beside"))
            return wire.response()

    def log(self) -> list[Any]:
        found: list[Any] = json.loads(self.get(f"/log?{self.case}").body)
        return found

    def until(self, holds: Callable[[list[Any]], bool]) -> list[Any]:
        """The application's log of this case, once it is so."""
        end_s = time.monotonic() + PATIENCE_S
        while not holds(log := self.log()):
            assert time.monotonic() < end_s, f"the application saw only {log}"
            time.sleep(0.01)
        return log

    def note_log(self) -> None:
        """What the application saw, once it has ended."""
        self.note("application", self.until(lambda log: "end" in log)[:-1])

    # -- WebSockets --------------------------------------------------------------------------------------------

    def socket(self, target: str, *headers: tuple[str, str], **replaced: str) -> Wire:
        """Ask for a WebSocket; note what was answered."""
        wire = self.wire()
        try:
            found = wire.shake_hands(self.case, target, *headers, **replaced)
        except Gone:
            found = None
        self.note_response(found)
        return wire


Case = Callable[[Talk], None]


def observe(case: str, script: Case, address: tuple[str, int]) -> dict[str, Any]:
    """Run one case with one server. Its port, which nobody chose, becomes ``PORT`` wherever it was seen."""
    talk = Talk(case, address)
    try:
        script(talk)
    finally:
        talk.close()
    found: dict[str, Any] = _without(address[1], talk.seen)
    return found


def _without(port: int, found: Any) -> Any:
    if isinstance(found, dict):
        return {key: _without(port, value) for key, value in found.items()}
    if isinstance(found, list):
        return [_without(port, value) for value in found]
    if isinstance(found, str):
        return found.replace(str(port), "PORT")
    return "PORT" if found == port and not isinstance(found, bool) else found
