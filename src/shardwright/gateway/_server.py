"""Serves the front on sockets that are handed in, on the running loop: uvicorn's protocols, with limits of our own.

HTTP/1.1 and WebSockets are uvicorn's (httptools and websockets beneath), narrowed by subclasses; HTTP/2 is ours on ``h2``. The
life of the server is ours too: it takes no signals, ends no process, and drains in an order of its own.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from typing import Any

import uvicorn

from shardwright.errors import NodeError
from shardwright.gateway._backend import Backend, GatewaySettings
from shardwright.gateway._front import Front
from shardwright.gateway._server_connection import GatewayState
from shardwright.gateway._server_http1 import Http1Protocol
from shardwright.gateway._server_websocket import WebSocketProtocol

__all__ = ["serve", "serve_front", "tls_context"]

TICK_S = 0.5
PING_S = 20.0  # between two pings of an idle WebSocket, and for its pong
CLOSE_S = 2.0  # that a WebSocket gets to answer a close


def tls_context(certificate: str, key: str) -> ssl.SSLContext:
    """The server's side of TLS 1.2 and up. Raises NodeError when the files cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        context.load_cert_chain(certificate, key or None, password=_no_password)
    except (OSError, ssl.SSLError) as error:
        raise NodeError(
            f"the certificate {certificate} cannot be used: {error}",
            remedy="give a PEM certificate and its unencrypted key in [gateway] certificate and key",
        ) from error
    return context


def _no_password() -> str:
    raise ssl.SSLError("its key is encrypted")


async def serve(
    settings: GatewaySettings, backend: Backend, sockets: list[socket.socket], stopping: asyncio.Event
) -> None:
    """Serve the routes until ``stopping`` is set and what was begun by then has ended. Takes the sockets over."""
    await serve_front(Front(settings, backend, token=settings.token), settings, sockets, stopping)


async def serve_front(
    front: Front, settings: GatewaySettings, sockets: list[socket.socket], stopping: asyncio.Event
) -> None:
    """Serve a front that was made elsewhere. Raises NodeError before it accepts anything; afterwards it does not raise."""
    gateway = settings.gateway
    tls = tls_context(gateway.certificate, gateway.key) if gateway.secure else None
    state = GatewayState(front.limits, front.functions)
    config = _config(front)
    loop = asyncio.get_running_loop()

    def protocol() -> asyncio.Protocol:
        return Http1Protocol(config=config, server_state=state, app_state={}, _loop=loop)

    handshake: dict[str, Any] = {"ssl_handshake_timeout": front.limits.head_timeout_s} if tls is not None else {}
    servers = []
    for each in sockets:
        each.setblocking(False)
        if each.family in (socket.AF_INET, socket.AF_INET6):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is accepted inherits it
        servers.append(await loop.create_server(protocol, sock=each, ssl=tls, backlog=2048, **handshake))
    ticking = loop.create_task(_tick(state, front))
    try:
        await stopping.wait()
        front.draining = state.draining = True
        for server in servers:
            server.close()
        await _drain(state, front)
    finally:
        for server in servers:
            server.close()
        ticking.cancel()
        for connection in tuple(state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await _end((*state.tasks, *front.behind, ticking))


def _config(front: Front) -> uvicorn.Config:
    config = uvicorn.Config(
        front,
        interface="asgi3",
        http=Http1Protocol,
        ws=WebSocketProtocol,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=int(front.limits.idle_timeout_s) or 1,
        ws_max_size=front.limits.message_bytes,
        ws_ping_interval=PING_S,
        ws_ping_timeout=PING_S,
        ws_per_message_deflate=False,
    )
    config.load()
    # What a client sends wrongly is answered; a line for each would let it fill the disk. Our own failures we log ourselves.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    return config


async def _tick(state: GatewayState, front: Front) -> None:
    """The time of day for responses, and an eye on connections that keep us waiting."""
    loop = asyncio.get_running_loop()
    while True:
        state.tell_date(time.time())
        now_s = loop.time()
        front.monitor.connections_open = len(state.connections)
        for connection in tuple(state.connections):
            sweep = getattr(connection, "sweep", None)
            if sweep is not None:
                try:
                    sweep(now_s)
                except Exception as defect:  # of one connection: the others are looked at nevertheless
                    front.log.defect(defect, None)
                    if connection.transport is not None:
                        connection.transport.abort()
        await asyncio.sleep(TICK_S)


async def _drain(state: GatewayState, front: Front) -> None:
    """Requests end first, within the time that the manifest gives; then WebSockets are told that we go away (1012)."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + front.limits.drain_s
    sockets = {each for each in state.connections if isinstance(each, WebSocketProtocol)}
    for connection in tuple(state.connections):
        if connection not in sockets:
            connection.shutdown()
    while loop.time() < until_s and any(not isinstance(each, WebSocketProtocol) for each in state.connections):
        await asyncio.sleep(0.02)
    for connection in tuple(state.connections):
        connection.shutdown()
    close_s = min(CLOSE_S, max(until_s - loop.time(), 0.2))
    while close_s > 0 and (state.connections or state.tasks):
        await asyncio.sleep(0.02)
        close_s -= 0.02
    left_s = until_s - loop.time()
    if front.behind and left_s > 0:
        await asyncio.wait(front.behind, timeout=left_s)


async def _end(tasks: tuple[asyncio.Task[Any], ...]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
