"""A server with the functions in its own process: what the gateway is measured against. Runs as a process of its own.

``python -m shardwright.cli._bench_server library|front FOLDER`` prints its port, and serves until its stdin ends.
``library`` is the server library with the smallest application that gives the same answers; ``front`` is the gateway's own
server and front, but for what lies behind it.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import socket
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import uvicorn

from shardwright.gateway import OWN_SESSION, GatewaySettings, RouteTarget, serve
from shardwright.guest import FunctionReply, FunctionRequest
from shardwright.model.ids import ComponentName, MethodId
from shardwright.model.manifest import Gateway
from shardwright.model.shard import EntryKind


class Functions:
    """The application's functions, by the path under which they are reached."""

    def __init__(self, folder: str) -> None:
        sys.path.insert(0, folder)
        self._nop = importlib.import_module("stock").nop
        self._chain = importlib.import_module("auth").get

    def answer(self, path: str) -> bytes:
        if path == "/nop":
            return msgspec.json.encode(self._nop())
        return msgspec.json.encode(self._chain(int(path.rpartition("/")[2])))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The smallest ASGI application."""
        body = self.answer(scope["path"])
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class InProcess:
    """A Backend that calls at once: for routes of functions in the gateway's own session."""

    on_session_ended = None

    def __init__(self, functions: Functions) -> None:
        self._functions = functions

    def session(self, name: str) -> int | None:
        return OWN_SESSION

    def begin(
        self,
        route: RouteTarget,
        session: int,
        request: FunctionRequest,
        heard: Callable[[Any], None],
        *,
        deadline_ns: int = 0,
        trace_id: bytes = b"",
    ) -> asyncio.Handle:
        return asyncio.get_running_loop().call_soon(lambda: heard(self._reply(request)))

    async def call(
        self, route: RouteTarget, session: int, request: FunctionRequest, *, deadline_ns: int = 0, trace_id: bytes = b""
    ) -> FunctionReply:
        return self._reply(request)

    def _reply(self, request: FunctionRequest) -> FunctionReply:
        item = request.path.get("item")
        return FunctionReply(200, self._functions.answer("/nop" if item is None else f"/{item}"))


def _route(path: str, component: str) -> RouteTarget:
    name = f"{component}.function"
    return RouteTarget(path, ("GET",), ComponentName(component), MethodId(0), name, EntryKind.FUNCTION)


async def _serve(how: str, functions: Functions, listener: socket.socket, stopping: asyncio.Event) -> None:
    if how == "front":
        routes = (_route("/nop", "stock"), _route("/chain/{item}", "auth"))
        settings = GatewaySettings("bench", Gateway(), routes, b"\0" * 32)
        backend: Any = InProcess(functions)
        await serve(settings, backend, [listener], stopping)
        return
    config = uvicorn.Config(
        functions,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # none of what the gateway does not do either
    )
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve([listener]))
    await stopping.wait()
    server.should_exit = server.force_exit = True
    await serving


async def _main(how: str, folder: str) -> None:
    functions = Functions(folder)
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, stopping.set)
    print(listener.getsockname()[1], flush=True)
    gc.freeze()  # as the gateway does
    await _serve(how, functions, listener, stopping)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2]))
