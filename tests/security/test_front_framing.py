"""What frames a request: trailers, extensions of chunks, blanks, upgrades; however the bytes of it are cut into reads."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Awaitable, Callable
from typing import Any

import h2.connection
import h2.events
import h11
import pytest

from gateway_standin import Raw, Served, StandIn, application_route, ask, function_route, served
from shardwright.guest import FunctionReply, FunctionRequest

Test = Callable[[Served], Awaitable[None]]
CHUNKED = b"POST /app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"


async def tell(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what it was asked."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept", "headers": [(b"shardwright-trace", b"mine")]})
        return
    body = b""
    while True:
        event = await receive()
        body += event.get("body", b"")
        if not event.get("more_body"):
            break
    told = [scope["method"], scope["path"], [[n.decode("latin-1"), v.decode("latin-1")] for n, v in scope["headers"]]]
    answer = json.dumps([*told, body.decode("latin-1")]).encode()
    headers = [(b"content-length", b"%d" % len(answer)), (b"Shardwright-Trace", b"mine")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


def echo(request: FunctionRequest) -> FunctionReply:
    return FunctionReply(200, json.dumps([request.method, request.body.decode("latin-1")]).encode())


def run(test: Test, *, session: bool = False, **gateway: Any) -> None:
    async def main() -> None:
        backend = StandIn({"a.echo": echo}, {"app": tell})
        routes = function_route("/echo", "a.echo", session=session), application_route("/app", "app", session=session)
        async with served(backend, *routes, **gateway) as server:
            await test(server)

    asyncio.run(asyncio.wait_for(main(), 120))


async def say(server: Served, *pieces: bytes) -> tuple[int, dict[str, str], bytes]:
    raw = await Raw.connect(server.port)
    try:
        for piece in pieces:
            await raw.say(piece)
            await asyncio.sleep(0.01)  # a read of its own
        return await raw.answer()
    finally:
        await raw.close()


TRAILERS = b"X-Authenticated-User: admin\r\nX-Forwarded-For: 6.6.6.6\r\nHost: evil\r\nExpect: 100-continue\r\n"


@pytest.mark.parametrize("apart", [False, True], ids=["in one read", "in several"])
def test_trailers_never_become_headers(apart: bool) -> None:
    async def test(server: Served) -> None:
        pieces = CHUNKED + b"\r\n", b"3\r\nabc\r\n", b"0\r\n" + TRAILERS + b"\r\n"
        status, _, body = await say(server, *(pieces if apart else (b"".join(pieces),)))
        assert status == 200
        assert json.loads(body)[2:] == [[["host", "a"], ["transfer-encoding", "chunked"]], "abc"]
        # the request behind it is a request of its own
        raw = await Raw.connect(server.port)
        await raw.say(b"".join(pieces) + b"GET /app/two HTTP/1.1\r\nHost: b\r\n\r\n")
        assert json.loads((await raw.answer())[2])[3] == "abc"
        assert json.loads((await raw.answer())[2])[1:3] == ["/app/two", [["host", "b"]]]
        await raw.close()

    run(test)


@pytest.mark.parametrize(
    ("trailers", "status"),
    [
        (b"T: v\r\n" * 20_000, 431),
        (b"T: v\r\n" * 513, 431),
        (b"T: " + b"v" * 70_000 + b"\r\n", 431),
        (b"Connection: close\r\n", 400),
        (b"Content-Length: 5\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n", 400),
        (b"no colon\r\n", 400),
        (b"T: v\r\n" * 500, 200),
    ],
)
@pytest.mark.parametrize("apart", [False, True], ids=["in one read", "in several"])
def test_trailers_have_the_limits_of_headers(trailers: bytes, status: int, apart: bool) -> None:
    async def test(server: Served) -> None:
        pieces = (CHUNKED + b"\r\n", b"0\r\n" + trailers + b"\r\n")
        got, headers, _ = await say(server, *(pieces if apart else (b"".join(pieces),)))
        assert got == status
        assert (headers.get("connection") == "close") == (status != 200)

    run(test)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n", 501),
        (b"POST /app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n", 200),
        (b"POST /app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n", 400),
        (b"POST /app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n", 400),
        (b"POST /app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"POST /app HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n", 400),
    ],
)
def test_bodies_that_are_coded_otherwise_are_refused(head: bytes, status: int) -> None:
    async def test(server: Served) -> None:
        got, _, _ = await say(server, head + b"\r\n3\r\nabc\r\n0\r\n\r\n")
        assert got == status

    run(test)


def test_a_target_with_an_authority_says_which_host_is_meant() -> None:
    async def test(server: Served) -> None:
        got, _, body = await say(server, b"GET http://evil.example:81/app HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert (got, json.loads(body)[2]) == (200, [["host", "evil.example:81"]])

    run(test)


def test_what_frames_a_body_is_bounded() -> None:
    async def test(server: Served) -> None:
        endless = [(begun, b"0" * 1000) for begun in (b"3;", b"000", b"0\r\nX: ", b"0\r\nX")]
        for begun, more in (*endless, (b"", b"1;" + b"x" * 1000 + b"\r\na\r\n")):
            raw = await Raw.connect(server.port)
            await raw.say(CHUNKED + b"\r\n")
            await raw.say(begun)
            for _ in range(400):
                await raw.say(more)
                await asyncio.sleep(0)
            assert (await raw.answer())[0] in (400, 431), begun
            assert await raw.rest() == b""
            await raw.close()
        # the smallest chunks that honest clients send
        raw = await Raw.connect(server.port)
        await raw.say(CHUNKED + b"\r\n")
        for _ in range(60):
            await raw.say(b"1;a=b\r\nx\r\n" * 500)
        await raw.say(b"0\r\n\r\n")
        assert len(json.loads((await raw.answer())[2])[3]) == 30_000
        await raw.close()

    run(test, max_header_bytes=16_384, body_timeout_s=2.0)


def test_a_value_ends_before_the_blanks_behind_it() -> None:
    async def test(server: Served) -> None:
        for path in ("/app", "/echo"):
            for length in (b" 3 ", b"3\t", b"\t 3"):
                head = b"POST %b HTTP/1.1\r\nHost: a \t\r\nContent-Length:%b\r\n\r\nabc" % (path.encode(), length)
                status, _, body = await say(server, head)
                assert status == 200, length
                assert json.loads(body)[-1] == "abc"
        assert [b"host", b"a"] not in json.loads(body)
        assert json.loads((await say(server, b"GET /app HTTP/1.1\r\nHost: a \t\r\nX: \t \r\n\r\n"))[2])[2] == [
            ["host", "a"],
            ["x", ""],
        ]

    run(test)


def test_one_trace_and_it_is_ours() -> None:
    async def test(server: Served) -> None:
        raw = await Raw.connect(server.port)
        await raw.say(b"GET /app HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = (await raw.rest()).lower()
        assert (answer.count(b"shardwright-trace"), b"mine" in answer) == (1, False)
        await raw.close()

    run(test)


UPGRADE = b"GET /app HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: "
WEBSOCKET = b"websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"


def test_an_upgrade_that_is_not_made_loses_nothing_behind_it() -> None:
    async def test(server: Served) -> None:
        second = b"POST /app/two HTTP/1.1\r\nHost: b\r\nContent-Length: 44\r\n\r\n"
        hidden = b"GET /app/hidden HTTP/1.1\r\nHost: c\r\nX: yz\r\n\r\n"
        assert len(hidden) == 44
        for pieces in ((second + hidden,), (second, hidden), (second[:9], second[9:] + hidden)):
            raw = await Raw.connect(server.port)
            await raw.say(UPGRADE + b"h2c\r\n\r\n" + pieces[0])
            for piece in pieces[1:]:
                await asyncio.sleep(0.02)
                await raw.say(piece)
            assert json.loads((await raw.answer())[2])[1] == "/app"
            assert json.loads((await raw.answer())[2])[1:] == [
                "/app/two",
                [["host", "b"], ["content-length", "44"]],
                hidden.decode(),
            ]
            await raw.close()

    run(test)


def test_a_websocket_is_asked_for_alone_and_without_a_body() -> None:
    async def test(server: Served) -> None:
        assert (await say(server, UPGRADE + WEBSOCKET + b"Content-Length: 0\r\n\r\n"))[0] == 101
        for body in (b"Content-Length: 1\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n0\r\nHost: evil\r\n\r\n"):
            assert (await say(server, UPGRADE + WEBSOCKET + body))[0] == 400
        raw = await Raw.connect(server.port)
        await raw.say(CHUNKED + b"\r\n0\r\n\r\n" + UPGRADE + WEBSOCKET + b"\r\n")
        status, headers, _ = await raw.answer()
        assert (status, headers["connection"], await raw.rest()) == (200, "close", b"")
        await raw.close()

    run(test)


# -- HTTP/2 ------------------------------------------------------------------------------------------------------


async def http2(
    server: Served, *more: tuple[str, str], path: str = "/app", trailers: list[tuple[str, str]] | None = None
) -> tuple[dict[str, list[str]], bytes]:
    """The response to one request; no headers: it was refused."""
    raw = await Raw.connect(server.port)
    config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False)
    conn = h2.connection.H2Connection(config)
    conn.initiate_connection()
    head = [(":method", "GET"), (":path", path), (":scheme", "http"), (":authority", "a"), *more]
    conn.send_headers(1, head, end_stream=trailers is None)
    if trailers is not None:
        conn.send_data(1, b"abc")
        conn.send_headers(1, trailers, end_stream=True)
    await raw.say(conn.data_to_send())
    headers: dict[str, list[str]] = {}
    body = b""
    try:
        while data := await asyncio.wait_for(raw.reader.read(65536), 15):
            for event in conn.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    for name, value in event.headers or ():
                        headers.setdefault(str(name), []).append(str(value))
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data or b""
                elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset, h2.events.ConnectionTerminated)):
                    return headers, body
        return headers, body
    finally:
        await raw.close()


def test_http2_drops_trailers_and_joins_cookies() -> None:
    async def test(server: Served) -> None:
        trailers = [("x-authenticated-user", "admin"), ("host", "evil")]
        headers, body = await http2(server, ("x", "y"), ("cookie", "a=1"), ("cookie", "b=2"), trailers=trailers)
        assert headers[":status"] == ["200"]
        assert json.loads(body)[2:] == [[["host", "a"], ["x", "y"], ["cookie", "a=1; b=2"]], "abc"]
        assert "mine" not in headers["shardwright-trace"] and len(headers["shardwright-trace"]) == 1
        assert await http2(server, ("host", "evil"), ("host", "a")) == ({}, b"")
        assert (await http2(server, trailers=[("t", "v")] * 3000))[0].get(":status") in (None, ["431"])

    run(test)


@pytest.mark.parametrize("path", ["/app", "/echo"])
def test_http2_keeps_its_session(path: str) -> None:
    async def test(server: Served) -> None:
        headers, _ = await http2(server, path=path)
        (cookie,) = headers["set-cookie"]
        for crumbs in ([cookie.partition(";")[0]], ["x=y", cookie.partition(";")[0], "z=w"]):
            again, _ = await http2(server, *(("cookie", crumb) for crumb in crumbs), path=path)
            assert "set-cookie" not in again
        assert server.backend.begun == 1

    run(test, session=True)


# -- however it is cut -------------------------------------------------------------------------------------------

REQUESTS = {
    "chunks and trailers": CHUNKED
    + b"X: y \r\n\r\n3;a=b\r\nabc\r\n00a\r\n0123456789\r\n0\r\nT: v\r\nHost: evil\r\n\r\n",
    "a length": b"PUT /app/%41?q=1 HTTP/1.1\r\nhost: a\r\nContent-Length: 5 \r\nEmpty:\r\nCookie: a=b\r\n\r\nhello",
    "two": CHUNKED
    + b"\r\n1\r\na\r\n0\r\nT: v\r\n\r\n"
    + b"POST /app/2 HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\n\r\nxy",
    "an upgrade": UPGRADE + b"h2c\r\n\r\n" + b"POST /app/2 HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\n\r\nxy",
    "empty lines": b"\r\n\r\nGET /app HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET /app/2 HTTP/1.1\r\nHost: b\r\n\r\n",
}


@pytest.mark.parametrize("said", REQUESTS.values(), ids=REQUESTS.keys())
def test_a_request_means_the_same_wherever_it_is_cut(said: bytes, record_exercised: Callable[[str, int], None]) -> None:
    """And what ``h11`` reads in it (which takes no empty lines before a request)."""
    wanted = by_h11(said.lstrip().replace(b"\r\n\r\n\r\n", b"\r\n\r\n"))
    assert len(wanted) == said.count(b" HTTP/1.1\r\n")

    async def test(server: Served) -> None:
        async def cut(at: int) -> None:
            raw = await Raw.connect(server.port)
            await raw.say(said[:at])
            await asyncio.sleep(0.02)
            await raw.say(said[at:])
            told = [json.loads((await raw.answer())[2]) for _ in wanted]
            assert told == wanted, at
            await raw.close()

        for first in range(0, len(said), 40):
            await asyncio.gather(*(cut(at) for at in range(first, min(first + 40, len(said)))))
        raw = await Raw.connect(server.port)
        for at in range(len(said)):
            await raw.say(said[at : at + 1])
            await asyncio.sleep(0)
        assert [json.loads((await raw.answer())[2]) for _ in wanted] == wanted
        await raw.close()

    run(test)
    record_exercised("places where a request was cut", len(said))


def by_h11(said: bytes) -> list[Any]:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(said)
    found: list[Any] = []
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            path = event.target.partition(b"?")[0].replace(b"%41", b"A")
            headers = [[name.decode(), value.decode()] for name, value in event.headers]
            found.append([event.method.decode(), path.decode(), headers, ""])
        elif isinstance(event, h11.Data):
            found[-1][3] += bytes(event.data).decode()
        elif isinstance(event, h11.EndOfMessage):
            connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is h11.MIGHT_SWITCH_PROTOCOL or not connection.trailing_data[0]:
                return found
            connection.start_next_cycle()
        else:
            return found


def test_mutated_requests_harm_nobody(
    record_exercised: Callable[[str, int], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is said: nothing of a trailer is a header, nothing is answered twice, and others are served.

    ``SWT_LONG=1`` goes on for longer.
    """
    rounds = 20_000 if os.environ.get("SWT_LONG") else 400
    chance = random.Random(rounds)
    parts = [
        b"\r\n",
        b"\n",
        b"\0",
        b" ",
        b":",
        b"0\r\n",
        b"\r\n\r\n",
        b"Host: b\r\n",
        b"Content-Length: 3\r\n",
        b";",
        b"\xff",
    ]
    parts += [b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"T: v\r\n" * 600, b"x" * 70_000]
    seeds = list(REQUESTS.values())
    answered = 0

    def mutated() -> bytes:
        said = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(1, 5)):
            at = chance.randrange(len(said) + 1)
            match chance.randrange(4):
                case 0:
                    said[at:at] = chance.choice(parts)
                case 1:
                    del said[at : at + chance.randrange(1, 20)]
                case 2:
                    said[at : at + 1] = bytes([chance.randrange(256)])
                case _:
                    said[at:at] = chance.choice(seeds)
        return bytes(said)

    async def test(server: Served) -> None:
        async def one() -> None:
            nonlocal answered
            said = mutated()
            raw = await Raw.connect(server.port)
            try:
                at = 0
                while at < len(said):
                    size = chance.choice([1, 7, 50, 1000, 100_000, 200_000])
                    await raw.say(said[at : at + size])
                    at += size
                    await asyncio.sleep(0)
                raw.writer.write_eof()
                while True:
                    status, _, body = await asyncio.wait_for(raw.answer(), 10)
                    assert status in (100, 200, 204, 400, 404, 405, 408, 413, 414, 429, 431, 501, 505), (status, said)
                    if status == 200:
                        asked = json.loads(body)
                        assert [name for name, _ in asked[2]].count("host") == 1, said
                    answered += 1
            except TimeoutError:
                raise AssertionError(f"no answer, and no end: {said!r}") from None
            except (asyncio.IncompleteReadError, OSError):
                pass
            finally:
                await raw.close()

        for _ in range(rounds // 20):
            await asyncio.gather(*(one() for _ in range(20)))
            assert (await ask(server.port, "GET /echo"))[0] == 200

    run(test, header_timeout_s=1.0, body_timeout_s=1.0)
    record_exercised("answers to mutated requests", answered)
    assert answered > rounds // 4
    assert not [record for record in caplog.records if record.name == "shardwright.gateway"], "a defect of the front"
