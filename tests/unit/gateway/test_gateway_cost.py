"""What a small request costs the gateway, counted in function calls, beside the same library with the function in process.

Processor time is measured by ``shardwright bench gateway``; what is counted here does not depend on the machine.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway_ends import LENGTH, gateway, route
from gateway_standin import settings
from shardwright.gateway._front import Front
from shardwright.gateway._server import _config
from shardwright.gateway._server_connection import GatewayState
from shardwright.gateway._server_http1 import Http1Protocol
from shardwright.gateway._turns import run_in_turns
from shardwright.guest import FunctionReply, encode_web
from shardwright.model.envelope import Envelope, Kind, PayloadCodec
from shardwright.transport import pack

REQUEST = b"GET %s HTTP/1.1\r\nHost: localhost:8000\r\n\r\n"
REQUESTS = 200
CONNECTIONS = 8
MOST = 1.9  # times the calls of the library: 1.7 when this was written


class Wire(asyncio.Transport):
    """A connection whose client takes everything at once."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""

    def write(self, data: Any) -> None:
        self.sent += data

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 5), "sockname": ("127.0.0.1", 6)}.get(name, default)

    def is_closing(self) -> bool:
        return False

    def resume_reading(self) -> None:
        pass


class Calls:
    """How many functions ran, of Python and of C, by the function that they are or that calls them."""

    def __init__(self) -> None:
        self.of: Counter[str] = Counter()

    @property
    def each(self) -> float:
        """For one request; what the test's own client and shard do at their own hand is not counted."""
        return self.of.total() / REQUESTS


@contextmanager
def counted() -> Iterator[Calls]:
    calls = Calls()

    def saw(frame: FrameType, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            name = frame.f_code.co_filename
            if not name.endswith("test_gateway_cost.py"):
                calls.of[f"{name.rpartition('/')[2]}:{frame.f_code.co_name}"] += 1

    sys.setprofile(saw)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def wires(make: Callable[[], Any]) -> list[tuple[Any, Wire]]:
    made = [(make(), Wire()) for _ in range(CONNECTIONS)]
    for protocol, wire in made:
        protocol.connection_made(wire)
    return made


async def library(path: bytes) -> Calls:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"4")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"null"})

    config = uvicorn.Config(
        app, http="httptools", ws="none", lifespan="off", access_log=False, log_config=None, proxy_headers=False
    )
    config.load()
    state = ServerState()
    state.default_headers = [(b"date", b"Sun, 22 Nov 2026 08:00:00 GMT")]
    made = wires(lambda: HttpToolsProtocol(config=config, server_state=state, app_state={}))
    with counted() as calls:
        for _ in range(REQUESTS // CONNECTIONS):
            for protocol, wire in made:
                wire.sent = b""
                protocol.data_received(REQUEST % path)
            while not all(wire.sent.endswith(b"null") for _, wire in made):
                await asyncio.sleep(0)
    return calls


async def ours(path: bytes, tasks: list[Any]) -> Calls:
    loop = asyncio.get_running_loop()
    async with gateway() as (backend, node):
        made_with = settings((route("pure", path="/nop"), route("pure", path="/item/{q}")))
        front = Front(made_with, backend)
        state = GatewayState(front.limits, front.functions)
        config = _config(front)
        made = wires(lambda: Http1Protocol(config=config, server_state=state, app_state={}, _loop=loop))
        made[0][0].data_received(REQUEST % path)  # binds
        shard = await node.link()
        first = await shard.receive()
        await shard.reply(first, b"null")
        while not made[0][1].sent:
            await asyncio.sleep(0)
        answers = [answer(first.call_id + 1 + number) for number in range(REQUESTS)]

        def noted(loop: asyncio.AbstractEventLoop, coroutine: Any, **named: Any) -> asyncio.Task[Any]:
            tasks.append(coroutine)
            return asyncio.Task(coroutine, loop=loop, **named)

        loop.set_task_factory(noted)
        with counted() as calls:
            for _ in range(REQUESTS // CONNECTIONS):
                for protocol, wire in made:
                    wire.sent = b""
                    protocol.data_received(REQUEST % path)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert shard.connection.recv(2**16), "what a turn gathered was sent at its end"
                shard.connection.sendall(b"".join(answers[:CONNECTIONS]))
                del answers[:CONNECTIONS]
                while not all(wire.sent.startswith(b"HTTP/1.1 200") for _, wire in made):
                    await asyncio.sleep(0)
        loop.set_task_factory(None)
    return calls


def answer(call_id: int) -> bytes:
    payload = encode_web(FunctionReply(200, b"null"))
    data = b"".join(map(bytes, pack(Envelope(Kind.RESULT, call_id, codec=PayloadCodec.WEB, payload=payload))))
    return LENGTH.pack(len(data)) + data


@pytest.mark.parametrize("path", [b"/nop", b"/item/7"])
def test_a_request_costs_no_task_and_few_calls_more_than_the_library_alone(
    path: bytes, record_exercised: Callable[[str, int], None]
) -> None:
    floor: list[Calls] = []
    mine: list[Calls] = []
    tasks: list[Any] = []

    async def main() -> None:
        floor.append(await library(path))
        mine.append(await ours(path, tasks))

    run_in_turns(main())
    assert not tasks
    record_exercised("calls of functions for a request of the gateway", round(mine[0].each))
    assert mine[0].each < MOST * floor[0].each, mine[0].of.most_common(60)
