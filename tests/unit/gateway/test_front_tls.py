"""The same front over TLS: both versions of HTTP, small answers and large bodies."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest

from gateway_standin import Raw, StandIn, function_route, served
from shardwright.guest import FunctionReply, FunctionRequest

# of nobody, for localhost, and for a hundred years
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBlTCCATugAwIBAgIUVXyTdp6jbfeZlwGNMV5SG5tLBvwwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMjA5MjUwNFoYDzIxMjYxMDI5
MDkyNTA0WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAARwQtEfKF0CLqURmjA/zg0KcWi83Ue99Jyqn1Pi94vdWrp/GxwVAEEZ
1HyL/oVslaKhGToqBP2KFSkL0BFGUHHPo2kwZzAdBgNVHQ4EFgQUoRD9DOFctM1Y
fZCymRYfn3BTeEUwHwYDVR0jBBgwFoAUoRD9DOFctM1YfZCymRYfn3BTeEUwDwYD
VR0TAQH/BAUwAwEB/zAUBgNVHREEDTALgglsb2NhbGhvc3QwCgYIKoZIzj0EAwID
SAAwRQIgeTz44GH5muoMHD9WslOUU4qgKh/y7Cj0s3rG0OjUS8kCIQCo7fIVgIuj
t5VZrJUWEALgn8YYFjBfGPeTn6+S7C66qg==
-----END CERTIFICATE-----
"""
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgtg6ZGmG0QnZqPXIP
Wz/C/d5SuV9DN4tTgPFE55U70vmhRANCAARwQtEfKF0CLqURmjA/zg0KcWi83Ue9
9Jyqn1Pi94vdWrp/GxwVAEEZ1HyL/oVslaKhGToqBP2KFSkL0BFGUHHP
-----END PRIVATE KEY-----
"""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "cert.pem").write_text(CERTIFICATE)
    (tmp_path / "key.pem").write_text(KEY)
    return {"certificate": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}


def client(*protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=CERTIFICATE)
    context.set_alpn_protocols(list(protocols))
    return context


def echo(request: FunctionRequest) -> FunctionReply:
    return FunctionReply(200, request.body or request.method.encode())


def test_http1_over_tls(files: dict[str, str]) -> None:
    async def main() -> None:
        backend = StandIn({"a.f": echo})
        async with served(backend, function_route("/f", "a.f"), **files) as server:
            raw = await Raw.connect(server.port, client("http/1.1"))
            for told in (1, 2):
                await raw.say(b"GET /f HTTP/1.1\r\nhost: localhost\r\n\r\n")
                status, _, body = await raw.answer()
                assert (status, body, backend.told) == (200, b"GET", told)
            large = bytes(range(256)) * 4096
            await raw.say(b"POST /f HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(large) + large)
            status, _, body = await raw.answer()
            assert (status, body == large) == (200, True)
            await raw.close()

    asyncio.run(main())


def test_http2_over_tls(files: dict[str, str]) -> None:
    async def main() -> None:
        async with served(StandIn({"a.f": echo}), function_route("/f", "a.f"), **files) as server:
            raw = await Raw.connect(server.port, client("h2", "http/1.1"))
            assert raw.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
            conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
            conn.initiate_connection()
            head = [(":method", "GET"), (":path", "/f"), (":scheme", "https"), (":authority", "localhost")]
            conn.send_headers(1, head, end_stream=True)
            await raw.say(conn.data_to_send())
            body, over = b"", False
            while not over:
                for event in conn.receive_data(await asyncio.wait_for(raw.reader.read(65536), 15)):
                    if isinstance(event, h2.events.DataReceived):
                        body += event.data or b""
                    over = over or isinstance(event, h2.events.StreamEnded)
            assert body == b"GET"
            await raw.close()

    asyncio.run(main())
