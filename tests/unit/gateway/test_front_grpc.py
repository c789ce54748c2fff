"""gRPC over the front's own HTTP/2: frames and messages as the specification writes them."""

from __future__ import annotations

import asyncio
import struct

import h2.config
import h2.connection
import h2.events
import pytest

from gateway_standin import Raw, StandIn, function_route, served
from shardwright.errors import ShardLost
from shardwright.gateway._grpc import decode_request, encode_reply, timeout_s
from shardwright.gateway._problems import Problem
from shardwright.guest import FunctionReply, FunctionRequest


def field(number: int, value: bytes) -> bytes:
    assert len(value) < 128
    return bytes([number << 3 | 2, len(value)]) + value


async def unary(port: int, path: str, message: bytes, *more: tuple[str, str]) -> tuple[dict[str, str], bytes]:
    """Headers and trailers together, and the message of the answer."""
    raw = await Raw.connect(port)
    conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
    conn.initiate_connection()
    head = [(":method", "POST"), (":path", path), (":scheme", "http"), (":authority", "localhost"), ("te", "trailers")]
    conn.send_headers(1, [*head, ("content-type", "application/grpc+proto"), *more])
    conn.send_data(1, struct.pack(">BI", 0, len(message)) + message, end_stream=True)
    found: dict[str, str] = {}
    body = b""
    try:
        while True:
            await raw.say(conn.data_to_send())
            data = await asyncio.wait_for(raw.reader.read(65536), 10)
            for event in conn.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    found.update(event.headers or ())  # type: ignore[arg-type]
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data or b""
                elif isinstance(event, h2.events.StreamEnded):
                    return found, body[5:]
    finally:
        await raw.close()


def test_calls_by_the_same_routes() -> None:
    def told(request: FunctionRequest) -> FunctionReply:
        return FunctionReply(201, f"{request.method} {dict(request.path)} {request.body!r}".encode(), "text/plain")

    async def main() -> None:
        backend = StandIn({"a.f": told})
        async with served(
            backend, function_route("/f/{x}", "a.f", "POST"), function_route("/s", "a.f", session=True)
        ) as server:
            request = field(2, b"/f/sword?a=1") + field(3, b"{}")
            found, body = await unary(server.port, "/shardwright.v1.Functions/Call", request, ("grpc-timeout", "2S"))
            assert (found[":status"], found["grpc-status"], found["content-type"]) == ("200", "0", "application/grpc")
            assert body == encode_reply(FunctionReply(201, b"POST {'x': 'sword'} b'{}'", "text/plain"))

            for message, status in (
                (field(2, b"/nowhere"), "5"),
                (field(1, b"GET") + field(2, b"/f/x"), "12"),
                (b"\xff", "3"),
                (field(2, b"f"), "3"),
            ):
                found, body = await unary(server.port, "/shardwright.v1.Functions/Call", message)
                assert (found["grpc-status"], body) == (status, b"")
            found, _ = await unary(
                server.port, "/shardwright.v1.Functions/Call", field(2, b"/s"), ("shardwright-session", "forged")
            )
            assert found["grpc-status"] == "16"
            found, _ = await unary(
                server.port, "/shardwright.v1.Functions/Call", field(2, b"/s"), ("shardwright-session", "new")
            )
            assert found["shardwright-session"].startswith("1.web-")
            backend.fail = ShardLost("the secret", outcome="not started")
            found, _ = await unary(server.port, "/shardwright.v1.Functions/Call", field(2, b"/f/x"))
            assert found["grpc-status"] == "14"
            assert "secret" not in found["grpc-message"]

            assert (await unary(server.port, "/grpc.health.v1.Health/Check", b""))[1] == b"\x08\x01"
            backend.ready = False
            assert (await unary(server.port, "/grpc.health.v1.Health/Check", b""))[1] == b"\x08\x02"
            assert (await unary(server.port, "/no.Such/Method", b""))[0][":status"] == "404"

    asyncio.run(main())


@pytest.mark.parametrize(
    "message",
    [b"\x0a", b"\x0a\x05ab", b"\x0b", b"\x80" * 11, b"\x00\x00", b"\x12\x01\xff", b"\x08\x01" * 1001],
)
def test_what_is_no_request_is_refused(message: bytes) -> None:
    with pytest.raises(Problem) as caught:
        decode_request(message)
    assert caught.value.status == 400


def test_unknown_fields_are_skipped_and_timeouts_are_read() -> None:
    request = decode_request(b"\x78\x05" + b"\x79" + b"8" * 8 + b"\x7d" + b"4" * 4 + field(15, b"x") + field(2, b"/a"))
    assert (request.method, request.target, request.content_type) == ("POST", "/a", "application/json")
    assert timeout_s(None, 30.0) == 30.0
    assert timeout_s(b"50m", 30.0) == pytest.approx(0.05)
    assert timeout_s(b"2H", 30.0) == 30.0
    with pytest.raises(Problem):
        timeout_s(b"soon", 30.0)
