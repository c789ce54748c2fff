"""What hostile clients and hostile shards say to the front, over real connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import pytest

from gateway_standin import Raw, Served, StandIn, application_route, ask, function_route, served
from shardwright.errors import DeadlineExceeded, Overloaded, ShardLost
from shardwright.guest import FunctionReply, FunctionRequest

Test = Callable[[Served], Awaitable[None]]


def echo(request: FunctionRequest) -> FunctionReply:
    told = {"path": request.path, "query": request.query, "length": len(request.body), "method": request.method}
    return FunctionReply(200, json.dumps(told).encode())


async def slow(request: FunctionRequest) -> FunctionReply:
    await asyncio.sleep(30)
    return FunctionReply(200)


async def swallow(scope: Any, receive: Any, send: Any) -> None:
    """Reads all, answers how much."""
    length = 0
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        length += len(event["body"])
        if not event["more_body"]:
            break
    body = b"%d" % length
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def run(test: Test, *, applications: dict[str, Any] | None = None, **gateway: Any) -> None:
    async def main() -> None:
        backend = StandIn({"a.echo": echo, "a.slow": slow}, {"app": swallow, **(applications or {})})
        async with served(
            backend,
            function_route("/echo", "a.echo"),
            function_route("/slow", "a.slow"),
            application_route("/app", "app"),
            **gateway,
        ) as server:
            await test(server)

    asyncio.run(asyncio.wait_for(main(), 60))


GOOD = b"GET /echo HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"

MALFORMED = {
    "no request": b"\x00\x01\x02\x03\r\n\r\n",
    "tls at a plain port": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 200,
    "no version": b"GET /echo\r\n\r\n",
    "a version of the future": b"GET /echo HTTP/9.9\r\nhost: x\r\n\r\n",
    "a space in a name": b"GET /echo HTTP/1.1\r\nhost: x\r\na b: c\r\n\r\n",
    "a space before the colon": b"GET /echo HTTP/1.1\r\nhost: x\r\ncontent-length : 3\r\n\r\nabc",
    "a folded line": b"GET /echo HTTP/1.1\r\nhost: x\r\na: b\r\n c: d\r\n\r\n",
    "NUL in a value": b"GET /echo HTTP/1.1\r\nhost: x\r\na: b\x00c\r\n\r\n",
    "bare CR": b"GET /echo HTTP/1.1\r\nhost: x\r\na: b\rc: d\r\n\r\n",
    "no host": b"GET /echo HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /echo HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
    "length and chunks": b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcde",
    "a signed length": b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: +4\r\n\r\nabcd",
    "a negative length": b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    "a length beyond counting": b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: " + b"9" * 40 + b"\r\n\r\n",
    "chunks that are not last": b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "an unknown coding": b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a chunk of a wrong size": b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    "a chunk longer than it says": b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
    "not percent-encoded UTF-8": b"GET /echo/%ff HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
}


@pytest.mark.parametrize("said", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_requests_are_refused_and_others_served(said: bytes) -> None:
    async def test(server: Served) -> None:
        raw = await Raw.connect(server.port)
        await raw.say(said)
        status, headers, body = await raw.answer()
        assert status in (400, 404, 505), (status, body)
        assert headers["content-type"] == "application/problem+json"
        assert json.loads(body)["trace"] == headers["shardwright-trace"]
        assert await raw.rest() == b"", "nothing else is answered on this connection"
        await raw.close()
        assert (await ask(server.port, "GET /echo"))[0] == 200
        assert [name for name, *_ in server.backend.calls].count("a.echo") <= 2

    run(test)


def test_a_request_hidden_in_a_body_is_no_request() -> None:
    hidden = b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n"

    async def test(server: Served) -> None:
        for said in (
            b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(hidden) + hidden,
            b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
            % (len(hidden), hidden),
        ):
            raw = await Raw.connect(server.port)
            await raw.say(said + GOOD)
            assert json.loads((await raw.answer())[2])["length"] == len(hidden)
            assert json.loads((await raw.answer())[2])["length"] == 0
            assert await raw.rest() == b""
            await raw.close()
        assert {name for name, *_ in server.backend.calls} == {"a.echo"}

    run(test)


def test_heads_are_bounded_however_they_come() -> None:
    async def test(server: Served) -> None:
        status, _, _ = await ask(server.port, b"GET /echo\na: " + b"x" * 9000)
        assert status == 431
        status, _, _ = await ask(server.port, b"GET /echo?" + b"x" * 5000)
        assert status == 414
        status, _, _ = await ask(server.port, b"GET /echo\n" + b"\n".join(b"a%d: b" % n for n in range(600)))
        assert status == 431
        raw = await Raw.connect(server.port)  # one header without end, in pieces
        await raw.say(b"GET /echo HTTP/1.1\r\nhost: x\r\na: ")
        for _ in range(40):
            await raw.say(b"x" * 500)
            await asyncio.sleep(0.001)
        assert (await raw.answer())[0] == 431
        await raw.close()
        assert (await ask(server.port, b"GET /echo\na: " + b"x" * 3000))[0] == 200

    run(test, max_header_bytes=4096)


def test_bodies_are_bounded_with_and_without_a_length() -> None:
    async def test(server: Served) -> None:
        for path in ("/echo", "/app"):
            status, headers, _ = await ask(server.port, f"POST {path}", b"x" * 10_001)
            assert (status, headers["connection"]) == (413, "close")
            raw = await Raw.connect(server.port)
            await raw.say(b"POST %b HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" % path.encode())
            for _ in range(12):
                await raw.say(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
            assert (await raw.answer())[0] == 413
            await raw.close()
            assert (await ask(server.port, f"POST {path}", b"x" * 10_000))[0] == 200

    run(test, max_body_bytes=10_000)


def test_slow_clients_are_cut_off_and_slow_nobody(record_exercised: Callable[[str, int], None]) -> None:
    async def test(server: Served) -> None:
        slow = [await Raw.connect(server.port) for _ in range(200)]
        for index, raw in enumerate(slow):
            if index % 4:
                await raw.say(b"GET /echo HTTP/1.1\r\nhost: x\r\na")
        dripping = asyncio.ensure_future(_drip(slow[1::4]))
        for _ in range(20):
            assert (await ask(server.port, "GET /echo"))[0] == 200
        for index, raw in enumerate(slow):
            if index % 4:
                assert (await raw.answer())[0] == 408
            assert await raw.rest() == b""
        dripping.cancel()
        for raw in slow:
            await raw.close()
        raw = await Raw.connect(server.port)  # a body that does not come
        await raw.say(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab")
        assert (await raw.answer())[0] == 408
        await raw.close()
        record_exercised("slow clients cut off", len(slow) + 1)

    async def _drip(clients: list[Raw]) -> None:
        while True:
            for raw in clients:
                raw.writer.write(b"b")
            await asyncio.sleep(0.1)

    run(test, header_timeout_s=1.0, body_timeout_s=0.5)


def test_too_many_connections_are_told_so() -> None:
    async def test(server: Served) -> None:
        held = [await Raw.connect(server.port) for _ in range(5)]
        for raw in held:
            await raw.say(b"GET /echo HTTP/1.1\r\nhost: x\r\n\r\n")
            await raw.answer()
        assert (await ask(server.port, "GET /echo"))[0] == 503
        await held.pop().close()
        await asyncio.sleep(0.05)
        assert (await ask(server.port, "GET /echo"))[0] == 200
        for raw in held:
            await raw.close()

    run(test, max_connections=5)


def test_endless_pipelines_end() -> None:
    async def test(server: Served) -> None:
        raw = await Raw.connect(server.port)
        await raw.say(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n" * 2000)
        await asyncio.sleep(0.2)
        assert len(server.backend.calls) == 1
        await raw.close()
        while not server.backend.cancelled:
            await asyncio.sleep(0.01)
        raw = await Raw.connect(server.port)
        await raw.say(b"GET /echo HTTP/1.1\r\nhost: x\r\n\r\n" * 20)
        for _ in range(20):
            assert (await raw.answer())[0] == 200
        await raw.close()

    run(test)


def test_a_client_that_leaves_takes_its_call_along() -> None:
    async def test(server: Served) -> None:
        raw = await Raw.connect(server.port)
        await raw.say(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
        while not server.backend.calls:
            await asyncio.sleep(0.01)
        await raw.close()
        while not server.backend.cancelled:
            await asyncio.sleep(0.01)
        assert not server.front.admission.gates["a"].inside

    run(test)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ShardLost("a-1f died of /secret/path"), 502),
        (ShardLost("a-1f is not there", outcome="not started"), 503),
        (Overloaded("secret"), 503),
        (DeadlineExceeded("secret"), 504),
    ],
)
def test_errors_of_shards_leak_nothing(error: Any, status: int) -> None:
    async def test(server: Served) -> None:
        server.backend.fail = error
        for path in ("/echo", "/app"):
            got, headers, body = await ask(server.port, f"GET {path}")
            assert got == status
            assert b"secret" not in body
            assert b"a-1f" not in body
            assert headers["content-type"] == "application/problem+json"
            assert ("retry-after" in headers) == (status == 503)

    run(test)


async def _lying(scope: Any, receive: Any, send: Any) -> None:
    case = scope["path"].rpartition("/")[2]
    start: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}
    body: dict[str, Any] = {"type": "http.response.body", "body": b"hello"}
    match case:
        case "smuggle":
            start["headers"] = [(b"content-length", b"5"), (b"transfer-encoding", b"chunked")]
            await send(start)
            await send(body)
        case "split":
            start["headers"] = [(b"a", b"b\r\nset-cookie: c")]
            await send(start)
        case "informational":
            await send({**start, "status": 101})
        case "body-first":
            await send(body)
        case "unknown":
            await send({"type": "shard.makes.things.up"})
        case "short":
            start["headers"] = [(b"content-length", b"50")]
            await send(start)
            await send(body)
        case "raise-before":
            raise RuntimeError("the secret")
        case "raise-after":
            await send(start)
            await send({**body, "more_body": True})
            raise RuntimeError("the secret")
        case "stop-after":
            await send(start)
            await send({**body, "more_body": True})


@pytest.mark.parametrize(
    ("case", "status"),
    [
        ("smuggle", 200),
        ("split", 502),
        ("informational", 502),
        ("body-first", 502),
        ("unknown", 502),
        ("short", None),
        ("raise-before", 500),
        ("raise-after", None),
        ("stop-after", None),
        ("silent", 500),
    ],
)
def test_applications_that_answer_nonsense(case: str, status: int | None) -> None:
    async def test(server: Served) -> None:
        if status is None:  # begun, and never ended: the connection breaks off
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await ask(server.port, f"GET /app/{case}")
        else:
            got, headers, body = await ask(server.port, f"GET /app/{case}")
            assert got == status
            assert b"secret" not in body
            assert not ("content-length" in headers and "transfer-encoding" in headers)
        assert (await ask(server.port, "GET /echo"))[0] == 200

    run(test, applications={"app": _lying})


# -- HTTP/2 ------------------------------------------------------------------------------------------------------


class Http2:
    """A client with every freedom of ``h2``."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False)
        self.conn = h2.connection.H2Connection(config)
        self.conn.initiate_connection()
        self.events: list[h2.events.Event] = []

    async def flush(self) -> None:
        await self.raw.say(self.conn.data_to_send())

    def ask(self, path: str, *more: tuple[str, str], method: str = "GET", end: bool = True) -> int:
        stream = self.conn.get_next_available_stream_id()
        head = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "localhost"), *more]
        self.conn.send_headers(stream, head, end_stream=end)
        return stream

    async def until(self, wanted: Callable[[h2.events.Event], bool]) -> h2.events.Event | None:
        """The first such event; None when the connection ends before."""
        while True:
            for event in self.events:
                if wanted(event):
                    self.events.remove(event)
                    return event
            data = await asyncio.wait_for(self.raw.reader.read(65536), 15)
            if not data:
                return None
            for event in self.conn.receive_data(data):
                self.events.append(event)
                if isinstance(event, h2.events.DataReceived):
                    self.conn.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
            await self.flush()

    async def status(self, stream: int) -> str:
        await self.flush()
        event = await self.until(lambda each: isinstance(each, h2.events.ResponseReceived) and each.stream_id == stream)
        assert isinstance(event, h2.events.ResponseReceived)
        return str(dict(event.headers or ())[":status"])


def test_rapid_resets_end_the_connection(record_exercised: Callable[[str, int], None]) -> None:
    async def test(server: Served) -> None:
        client = Http2(await Raw.connect(server.port))
        assert await client.status(client.ask("/echo")) == "200"
        sent = 0
        try:
            for _ in range(100):
                for _ in range(50):
                    stream = client.ask("/slow")
                    client.conn.reset_stream(stream)
                    sent += 1
                await client.flush()
                await asyncio.sleep(0)
        except ConnectionError:
            pass
        try:
            ended = await client.until(lambda each: isinstance(each, h2.events.ConnectionTerminated))
            assert ended is None or ended.error_code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM  # type: ignore[attr-defined]
        except ConnectionError:
            pass
        await client.raw.close()
        assert len(server.backend.calls) < 1000
        while server.front.admission.gates["a"].inside:
            await asyncio.sleep(0.01)
        assert (await ask(server.port, "GET /echo"))[0] == 200
        record_exercised("streams opened and reset", sent)

    run(test)


@pytest.mark.parametrize(
    "said",
    [
        b"\x00\x00\x00\x01\x05\x00\x00\x00\x01",  # an empty header block
        b"\x00\x00\x04\x01\x05\x00\x00\x00\x01\xff\xff\xff\xff",  # no HPACK
        b"\x00\x00\x05\x00\x01\x00\x00\x00\x07hello",  # data of a stream that is not
        b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x01",  # a forbidden setting
        b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",  # a frame larger than agreed
        b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00",  # a window update of nothing
        b"\x00\x00\x08\x06\x00\x00\x00\x00\x00abcdefgh" * 2000,  # pings without end
        b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" * 2000,  # settings without end
        b"\x00\x00\x00\x01\x01\x00\x00\x00\x01" + b"\x00\x00\x00\x09\x00\x00\x00\x00\x01" * 500,  # continuations
        b"\x00\x00\x05\x01\x05\x00\x00\x00\x02\x82\x84\x86\x41\x00",  # an even stream
    ],
)
def test_broken_frames_end_the_connection(said: bytes) -> None:
    async def test(server: Served) -> None:
        raw = await Raw.connect(server.port)
        try:
            await raw.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00" + said)
        except ConnectionError:
            pass
        await raw.rest()  # comes to an end
        await raw.close()
        assert not server.backend.calls
        assert (await ask(server.port, "GET /echo"))[0] == 200

    run(test)


def test_http2_requests_and_their_limits() -> None:
    async def test(server: Served) -> None:
        client = Http2(await Raw.connect(server.port))
        streams = [client.ask(f"/echo?n={n}") for n in range(50)]
        await client.flush()
        assert [await client.status(each) for each in streams] == ["200"] * 50
        assert await client.status(client.ask("/nowhere")) == "404"
        long = client.ask("/echo?" + "x" * 5000)
        await client.flush()
        assert await client.status(long) == "414"
        told = client.ask(
            "/chat", (":protocol", "websocket"), ("sec-websocket-version", "13"), method="CONNECT", end=False
        )
        await client.flush()
        assert await client.status(told) == "501", "WebSockets over HTTP/2 are not announced, and are refused clearly"
        assert client.conn.remote_settings.enable_connect_protocol == 0

        stream = client.ask("/app", method="POST", end=False)  # a body of many windows
        left = 500_000
        while left:
            room = min(client.conn.local_flow_control_window(stream), client.conn.max_outbound_frame_size, left)
            if not room:
                await client.flush()
                await client.until(lambda each: isinstance(each, h2.events.WindowUpdated))
                continue
            client.conn.send_data(stream, b"x" * room)
            left -= room
        client.conn.end_stream(stream)
        await client.flush()
        assert await client.status(stream) == "200"
        data = await client.until(lambda each: isinstance(each, h2.events.DataReceived) and each.stream_id == stream)
        assert isinstance(data, h2.events.DataReceived)
        assert data.data == b"500000"

        client.ask("/echo", *((f"x-{n}", "y" * 100) for n in range(120)))
        await client.flush()
        assert await client.until(lambda each: isinstance(each, h2.events.ConnectionTerminated)) is not None
        await client.raw.close()

    run(test, max_header_bytes=8192)


# -- WebSockets ------------------------------------------------------------------------------------------------------

UPGRADE = (
    b"GET /app HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
)


async def _talk(scope: Any, receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            return
        await send({"type": "websocket.send", "text": event.get("text") or "bytes"})


def masked(opcode: int, payload: bytes, *, fin: bool = True, mask: bool = True, reserved: int = 0) -> bytes:
    head = bytes([(0x80 if fin else 0) | reserved | opcode])
    if len(payload) < 126:
        head += bytes([(0x80 if mask else 0) | len(payload)])
    else:
        head += bytes([(0x80 if mask else 0) | 127]) + len(payload).to_bytes(8, "big")
    return head + (b"\0\0\0\0" if mask else b"") + payload


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (masked(1, b"hi", mask=False), 1002),
        (masked(3, b""), 1002),
        (masked(1, b"hi", reserved=0x40), 1002),
        (masked(9, b"x" * 126), 1002),
        (masked(9, b"", fin=False), 1002),
        (masked(0, b"rest"), 1002),
        (masked(1, b"a", fin=False) + masked(1, b"b"), 1002),
        (masked(1, b"\xff\xfe"), 1007),
        (masked(8, b"\x03"), 1002),
        (masked(8, (1005).to_bytes(2, "big")), 1002),
        (b"\x82\xff" + (2**40).to_bytes(8, "big") + b"\0\0\0\0", 1009),
    ],
)
def test_websocket_violations_are_closed_with_their_code(said: bytes, code: int) -> None:
    async def test(server: Served) -> None:
        raw = await Raw.connect(server.port)
        await raw.say(UPGRADE)
        assert (await raw.answer(head=True))[0] == 101
        await raw.say(said)
        rest = await raw.rest()
        assert rest[0] == 0x88, rest
        assert int.from_bytes(rest[2:4], "big") == code
        await raw.close()
        while not server.backend.exchanges[0].ended:
            await asyncio.sleep(0.01)

    run(test, applications={"app": _talk})


@pytest.mark.parametrize(
    "change",
    [
        (b"sec-websocket-version: 13", b"sec-websocket-version: 12"),
        (b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", b"sec-websocket-key: short"),
        (b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b""),
        (b"GET /app", b"POST /app"),
        (b"GET /app", b"GET /nowhere"),
        (b"host: x\r\n", b""),
    ],
)
def test_broken_handshakes_reach_no_application(change: tuple[bytes, bytes]) -> None:
    async def test(server: Served) -> None:
        raw = await Raw.connect(server.port)
        await raw.say(UPGRADE.replace(*change))
        text = await raw.rest()
        assert text.startswith(b"HTTP/1.1 4"), text
        await raw.close()
        assert not server.backend.exchanges

    run(test, applications={"app": _talk})


def test_a_flood_of_tiny_messages_waits_outside() -> None:
    seen = 0
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal seen
        await receive()
        await send({"type": "websocket.accept"})
        await go.wait()
        while (await receive())["type"] != "websocket.disconnect":
            seen += 1

    async def test(server: Served) -> None:
        raw = await Raw.connect(server.port)
        await raw.say(UPGRADE)
        await raw.answer(head=True)
        count = 40_000
        sending = asyncio.ensure_future(raw.say(masked(2, b"") * count + masked(8, b"\x03\xe8")))
        await asyncio.sleep(0.3)
        exchange = server.backend.exchanges[0]
        assert exchange.to_app.most <= 256 * 1024 + 100
        go.set()
        await sending
        while not exchange.ended:
            await asyncio.sleep(0.01)
        assert seen == count
        await raw.close()

    run(test, applications={"app": app})
