"""The front as clients see it: functions, applications, sessions, its own pages, an orderly end."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from gateway_standin import Raw, StandIn, application_route, ask, function_route, served
from shardwright.errors import NodeError, ShardLost
from shardwright.gateway._server import tls_context
from shardwright.guest import FunctionReply, FunctionRequest

UPGRADE = (
    "GET {path} HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n{more}"
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
)

TOKEN = "not-to-be-guessed-at-0123456789"


def told(request: FunctionRequest) -> FunctionReply:
    body = json.dumps([request.method, dict(request.path), list(request.query), request.body.decode()])
    return FunctionReply(200, body.encode())


def test_a_function_hears_the_request_and_its_reply_passes_as_it_is() -> None:
    async def main() -> None:
        backend = StandIn({"a.f": told, "a.g": lambda _: FunctionReply(404, b"\x00raw", "text/x; y=z")})
        async with served(
            backend, function_route("/f/{x}/{y:path}", "a.f"), function_route("/g", "a.g", "GET"), call_timeout_s=9.0
        ) as server:
            trace = "0af7651916cd43dd8448eb211c80319c"
            status, headers, body = await ask(
                server.port,
                f"POST /f/a%20b/c/d?q=1&q=2&e=&u=%C3%A9\ntraceparent: 00-{trace}-b7ad6b7169203331-01",
                b"{}",
            )
            assert status == 200
            assert json.loads(body) == [
                "POST",
                {"x": "a b", "y": "c/d"},
                [["q", "1"], ["q", "2"], ["e", ""], ["u", "é"]],
                "{}",
            ]
            assert headers["shardwright-trace"] == trace
            assert headers["content-type"] == "application/json"
            name, session, trace_id, deadline_ns = backend.calls[-1]
            assert (name, session, trace_id.hex(), deadline_ns > 0) == ("a.f", 0, trace, True)

            status, headers, body = await ask(server.port, "GET /g")
            assert (status, headers["content-type"], body) == (404, "text/x; y=z", b"\x00raw")
            status, headers, body = await ask(server.port, "HEAD /g")
            assert (status, headers["content-length"], body) == (404, "4", b"")
            status, headers, _ = await ask(server.port, "POST /g")
            assert (status, headers["allow"]) == (405, "GET, HEAD")
            assert (await ask(server.port, "GET /f/a/b?q=%ff"))[0] == 400
            assert (await ask(server.port, "GET /f/a/b?" + "a&" * 1100))[0] == 400

    asyncio.run(main())


def test_sessions_are_kept_by_cookie_and_by_header() -> None:
    async def main() -> None:
        seen: list[dict[bytes, bytes]] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.append(dict(scope["headers"]))
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

        backend = StandIn({"a.f": told}, {"app": app}, rooms=2)
        async with served(
            backend, function_route("/f", "a.f", session=True), application_route("/", "app", session=True)
        ) as server:
            _, headers, _ = await ask(server.port, "GET /f")
            cookie = headers["set-cookie"].partition(";")[0]
            _, headers, _ = await ask(server.port, f"GET /f\ncookie: x=y; {cookie}")
            assert "set-cookie" not in headers
            assert [call[1] for call in backend.calls] == [1, 1]
            await ask(server.port, f"GET /\ncookie: x=y; {cookie}")
            assert seen[-1][b"cookie"] == b"x=y"
            status, headers, _ = await ask(server.port, "GET /f\nshardwright-session: forged")
            assert (status, "set-cookie" in headers) == (401, False)
            _, headers, _ = await ask(server.port, "GET /f\nshardwright-session: new")
            await ask(server.port, f"GET /f\nshardwright-session: {headers['shardwright-session']}")
            assert [call[1] for call in backend.calls] == [1, 1, 2, 2]
            status, headers, _ = await ask(server.port, "GET /f\ncookie: sw_session=forged")
            assert (status, headers["retry-after"]) == (503, "1"), "there is no room for a third"

    asyncio.run(main())


def test_streaming_both_ways_holds_little_and_overlaps() -> None:
    async def main() -> None:
        async def double(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                event = await receive()
                await send({"type": "http.response.body", "body": event["body"] * 2, "more_body": event["more_body"]})
                if not event["more_body"]:
                    return

        backend = StandIn({}, {"app": double})
        async with served(backend, application_route("/", "app")) as server:
            raw = await Raw.connect(server.port)
            count, piece = 300, b"x" * 65536
            await raw.say(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")

            async def upload() -> None:
                for _ in range(count):
                    await raw.say(b"10000\r\n" + piece + b"\r\n")
                await raw.say(b"0\r\n\r\n")

            sending = asyncio.ensure_future(upload())
            await asyncio.sleep(0.3)
            assert not sending.done(), "nobody reads the response, so nobody takes the body"
            (exchange,) = backend.exchanges
            assert exchange.to_app.most <= 400_000
            assert exchange.from_app.most <= 700_000
            _, _, body = await raw.answer()
            await sending
            assert len(body) == 2 * count * len(piece)
            await raw.close()

    asyncio.run(main())


def test_work_behind_the_response_goes_on_and_leaving_ends_the_rest() -> None:
    async def main() -> None:
        done = asyncio.Event()
        left: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            if scope["path"] == "/behind":
                await send({"type": "http.response.body", "body": b"ok"})
                await asyncio.sleep(0.1)
                done.set()
                return
            await receive()
            left.append((await receive())["type"])

        backend = StandIn({}, {"app": app})
        async with served(backend, application_route("/", "app")) as server:
            assert (await ask(server.port, "GET /behind"))[0] == 200
            assert not done.is_set()
            raw = await Raw.connect(server.port)
            await raw.say(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n")
            await raw.reader.readuntil(b"\r\n\r\n")
            await raw.close()
            await asyncio.wait_for(done.wait(), 10)
            while not left:
                await asyncio.sleep(0.01)
        assert left == ["http.disconnect"]

    asyncio.run(main())


async def chat(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "websocket"
    await receive()
    match scope["path"]:
        case "/no":
            await send({"type": "websocket.close", "code": 4001})
            return
        case "/denied":
            start = {"type": "websocket.http.response.start", "status": 418, "headers": [(b"x-why", b"tea")]}
            await send(start)
            await send({"type": "websocket.http.response.body", "body": b"short and stout"})
            return
        case "/raises":
            raise RuntimeError("the secret")
    await send({"type": "websocket.accept", "subprotocol": (scope["subprotocols"] or [None])[-1]})
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            return
        if event.get("text") == "lost":
            raise ShardLost("gone")
        if event.get("text") == "close":
            await send({"type": "websocket.close", "code": 4002, "reason": "asked"})
            return
        await send({"type": "websocket.send", "text": event.get("text"), "bytes": event.get("bytes")})


def frame(text: bytes, opcode: int = 1) -> bytes:
    return bytes([0x80 | opcode, 0x80 | len(text)]) + b"\0\0\0\0" + text


def test_websockets_before_and_after_the_accept() -> None:
    async def main() -> None:
        async with served(StandIn({}, {"app": chat}), application_route("/", "app")) as server:

            async def handshake(path: str, more: str = "") -> tuple[Raw, int, dict[str, str]]:
                raw = await Raw.connect(server.port)
                await raw.say(UPGRADE.format(path=path, more=more).encode())
                status, headers, _ = await raw.answer(head=True)
                return raw, status, headers

            for path, wanted in (("/no", 403), ("/denied", 418), ("/raises", 500)):
                raw, status, _ = await handshake(path)
                assert (status, b"secret" in await raw.rest()) == (wanted, False)
                await raw.close()
            raw, status, headers = await handshake("/x", "sec-websocket-protocol: one, two\r\n")
            assert (status, headers["sec-websocket-protocol"]) == (101, "two")
            assert len(headers["shardwright-trace"]) == 32
            await raw.say(frame(b"hello"))
            assert await raw.reader.readexactly(7) == b"\x81\x05hello"
            await raw.say(frame(b"\0\1", 2))
            assert await raw.reader.readexactly(4) == b"\x82\x02\0\1"
            await raw.say(frame(b"close"))
            assert await raw.reader.readexactly(9) == b"\x88\x07" + (4002).to_bytes(2, "big") + b"asked"
            await raw.say(frame((4002).to_bytes(2, "big"), 8))
            assert await raw.rest() == b""
            await raw.close()
            raw, _, _ = await handshake("/x")
            await raw.say(frame(b"lost"))
            assert (await raw.reader.readexactly(4))[2:] == (1011).to_bytes(2, "big")
            await raw.close()

    asyncio.run(main())


def test_who_speaks_before_the_accept_is_heard_after_it(caplog: pytest.LogCaptureFixture) -> None:
    """With the head, or before the 101: nothing is lost, answered too soon, or told as a defect of the server."""

    async def main() -> None:
        shy, accepts = asyncio.Event(), asyncio.Event()

        async def late(scope: Any, receive: Any, send: Any) -> None:
            shy.set()
            await accepts.wait()
            await chat({**scope, "path": scope["path"]}, receive, send)

        faults: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, told: faults.append(told))
        async with served(StandIn({}, {"app": late}), application_route("/", "app")) as server:
            head = UPGRADE.format(path="/x", more="").encode()
            for with_head in (True, False):
                for early, wanted in (
                    (frame(b"one") + frame(b"two"), b"\x81\x03one\x81\x03two"),
                    (
                        frame(b"are you there", 9) + frame(b"x" * 120) * 60,
                        b"\x8a\x0dare you there" + (b"\x81\x78" + b"x" * 120) * 60,
                    ),
                    (frame(b"still?", 9), b"\x8a\x06still?"),
                    (b"\x81\x05hello", b"\x88"),  # not masked
                    (frame(b"\xff\xfe"), b"\x88\x02" + (1007).to_bytes(2, "big")),
                    (frame((1000).to_bytes(2, "big"), 8), b"\x88\x02" + (1000).to_bytes(2, "big")),
                ):
                    shy.clear()
                    accepts.clear()
                    raw = await Raw.connect(server.port)
                    await raw.say(head + early if with_head else head)
                    await shy.wait()
                    if not with_head:
                        await raw.say(early)
                        await asyncio.sleep(0.01)  # it is read, if it is read before the accept at all
                    accepts.set()
                    status, _, _ = await raw.answer(head=True)
                    assert status == 101
                    assert await raw.reader.readexactly(len(wanted)) == wanted, early[:20]
                    if b"still?" in wanted:  # nothing of that went to the application, and reading goes on
                        await raw.say(frame(b"after"))
                        assert await asyncio.wait_for(raw.reader.readexactly(7), 20) == b"\x81\x05after"
                    await raw.close()
            accepts.set()
            raw = await Raw.connect(server.port)
            await raw.say(UPGRADE.format(path="/no", more="").encode() + frame(b"one"))
            status, _, _ = await raw.answer(head=True)
            assert status == 403
            await raw.close()
        assert not faults

    asyncio.run(main())
    assert "Traceback" not in caplog.text


def test_the_drain_ends_requests_first_and_tells_websockets() -> None:
    async def main() -> None:
        release = asyncio.Event()

        async def slow(request: FunctionRequest) -> FunctionReply:
            await release.wait()
            return FunctionReply(200, b"done")

        backend = StandIn({"a.slow": slow, "a.f": told}, {"app": chat})
        async with served(
            backend,
            function_route("/slow", "a.slow", "GET"),
            function_route("/f", "a.f", "GET"),
            application_route("/", "app"),
            drain_s=20.0,
        ) as server:
            talking = await Raw.connect(server.port)
            await talking.say(UPGRADE.format(path="/x", more="").encode())
            await talking.answer(head=True)
            waiting = await Raw.connect(server.port)
            await waiting.say(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
            idle = await Raw.connect(server.port)
            await idle.say(b"GET /f HTTP/1.1\r\nhost: x\r\n\r\n")
            await idle.answer()
            fresh = await Raw.connect(server.port)
            while len(backend.calls) < 2:
                await asyncio.sleep(0.01)

            stopping = asyncio.ensure_future(server.stop())
            while not server.front.draining:
                await asyncio.sleep(0.01)
            # both are on the way when the drain begins: they are answered, and told to come no more
            for raw in (idle, fresh):
                await raw.say(b"GET /f HTTP/1.1\r\nhost: x\r\n\r\n")
                status, headers, _ = await raw.answer()
                assert (status, headers["connection"]) == (200, "close")
                await raw.close()
            await talking.say(frame(b"still"))
            assert await talking.reader.readexactly(7) == b"\x81\x05still"
            assert not stopping.done()
            release.set()
            status, headers, body = await waiting.answer()
            assert (status, headers["connection"], body) == (200, "close", b"done")
            assert (await talking.reader.readexactly(4))[2:] == (1012).to_bytes(2, "big")
            await asyncio.wait_for(stopping, 10)
            await waiting.close()
            await talking.close()

    asyncio.run(main())


def test_no_token_opens_the_pages_of_a_gateway_that_has_none() -> None:
    async def main() -> None:
        async with served(StandIn(), application_route("/x", "app")) as server:
            for path in ("", "/status", "/metrics"):
                for given in ("Bearer ", "Bearer", "Bearer None", "Bearer " + TOKEN):
                    asked = f"GET /_shardwright{path}\nx-forwarded-for: 1.2.3.4\nauthorization: {given}"
                    status, headers, _ = await ask(server.port, asked)
                    assert (status, "www-authenticate" in headers) == (403, False)

    asyncio.run(main())


def test_a_defect_of_the_front_is_logged_with_the_trace_and_told_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with served(StandIn(), application_route("/x", "nowhere")) as server:  # the stand-in raises KeyError
            for number in range(15):
                trace = f"{number + 1:032x}"
                status, _, body = await ask(server.port, f"GET /x\ntraceparent: 00-{trace}-b7ad6b7169203331-01")
                assert (status, b"nowhere" in body) == (500, False)

    asyncio.run(main())
    told = [record for record in caplog.records if record.name == "shardwright.gateway"]
    assert 10 <= len(told) <= 11, "a minute may have passed"
    assert told[0].__dict__["trace"] == f"{1:032x}"
    assert told[0].exc_info is not None and told[0].exc_info[0] is KeyError


def test_a_route_has_a_time_of_its_own() -> None:
    async def main() -> None:
        async def hang(request: FunctionRequest) -> FunctionReply:
            await asyncio.sleep(60)
            raise AssertionError

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"].startswith("/begun"):
                await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
                await send({"type": "http.response.body", "body": b"o", "more_body": True})
                await asyncio.sleep(0.3)
                await send({"type": "http.response.body", "body": b"k"})
            await asyncio.sleep(60)

        brief = [replace(application_route(f"/{name}", "app"), timeout_s=0.1) for name in ("silent", "begun")]
        backend = StandIn({"a.f": hang}, {"app": app})
        async with served(backend, replace(function_route("/f", "a.f"), timeout_s=0.25), *brief) as server:
            begun_ns = time.monotonic_ns()
            assert (await ask(server.port, "GET /silent"))[0] == 504
            assert (await ask(server.port, "GET /begun"))[2] == b"ok", "it began in time"
            raw = await Raw.connect(server.port)
            await raw.say(UPGRADE.format(path="/silent", more="").encode())
            assert (await raw.answer())[0] == 504
            await raw.close()
            calling = asyncio.ensure_future(ask(server.port, "GET /f"))
            while not backend.calls:
                await asyncio.sleep(0)
            deadline_ns = backend.calls[0][3]
            assert deadline_ns - time.monotonic_ns() < 0.25e9 < deadline_ns - begun_ns
            calling.cancel()

    asyncio.run(main())


def test_pages_of_its_own() -> None:
    async def main() -> None:
        described = {"parameters": [{"name": "q", "in": "query", "schema": {"type": "integer"}}]}
        backend = StandIn({"a.f": told}, described={"a.f": described})
        async with served(backend, function_route("/f/{x}", "a.f", "GET"), token=TOKEN) as server:
            assert (await ask(server.port, "GET /_shardwright/health"))[0] == 200
            assert (await ask(server.port, "GET /_shardwright/ready"))[0] == 200
            backend.ready = False
            assert (await ask(server.port, "GET /_shardwright/ready"))[0] == 503
            status, headers, body = await ask(server.port, "GET /_shardwright")
            assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
            assert b"http" not in body.replace(b"http-equiv", b""), "nothing is fetched from elsewhere"
            status, _, body = await ask(server.port, "GET /_shardwright/status")
            assert (status, json.loads(body)["app"]) == (200, "trial")
            assert (await ask(server.port, "GET /metrics"))[0] == 200
            for path in ("", "/status", "/metrics"):
                for foreign in ("x-forwarded-for: 1.2.3.4", "forwarded: for=1.2.3.4"):
                    status, headers, body = await ask(server.port, f"GET /_shardwright{path}\n{foreign}")
                    assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="shardwright"')
                    assert b"web-1" not in body
                asked = f"GET /_shardwright{path}\nx-forwarded-for: 1.2.3.4\nauthorization: Bearer "
                assert (await ask(server.port, asked + TOKEN))[0] == 200
                assert (await ask(server.port, asked.replace("Bearer", "bearer") + TOKEN))[0] == 200
                for wrong in ("wrong", TOKEN[:-1], TOKEN + "x", "", f"Basic {TOKEN}", TOKEN.upper()):
                    assert (await ask(server.port, asked + wrong))[0] == 401
                assert (await ask(server.port, asked.replace("Bearer ", "") + TOKEN))[0] == 401
            raw = await Raw.connect(server.port)
            await raw.say(b"GET /_shardwright/status HTTP/1.1\r\nhost: evil.example\r\n\r\n")
            assert (await raw.answer())[0] == 401, "a name that points here is no client on this machine"
            await raw.close()
            assert (await ask(server.port, "POST /_shardwright/health"))[0] == 405
            assert (await ask(server.port, "GET /_shardwright/nothing"))[0] == 404
            for path in ("/openapi.json", "/_shardwright/openapi.json"):
                document = json.loads((await ask(server.port, f"GET {path}"))[2])
                operation = document["paths"]["/f/{x}"]["get"]
                assert document["openapi"] == "3.1.0"
                assert [each["name"] for each in operation["parameters"]] == ["q", "x"]

    asyncio.run(main())


def test_an_application_at_the_root_keeps_its_own_documents() -> None:
    async def main() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
            await send({"type": "http.response.body", "body": b"own"})

        async with served(StandIn({}, {"app": app}), application_route("/", "app")) as server:
            for path in ("/openapi.json", "/metrics", "/_shardwrighted"):
                assert (await ask(server.port, f"GET {path}"))[2] == b"own"

    asyncio.run(main())


def test_tls_files_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "c.pem").write_text("nothing")
    for name in ("c.pem", "missing.pem"):
        with pytest.raises(NodeError, match=r"cannot be used"):
            tls_context(str(tmp_path / name), "")
    assert ssl.HAS_ALPN
