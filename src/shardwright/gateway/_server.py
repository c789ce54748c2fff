"""Serves the routes on the sockets. To be replaced by the front: this one answers functions without a body alone."""

from __future__ import annotations

import asyncio
import socket

from shardwright.errors import ShardwrightError
from shardwright.gateway._backend import Backend, GatewaySettings
from shardwright.guest import FunctionRequest
from shardwright.model.shard import EntryKind, RouteTarget


async def serve(
    settings: GatewaySettings, backend: Backend, sockets: list[socket.socket], stopping: asyncio.Event
) -> None:
    """Serve until ``stopping`` is set and what was begun by then has ended. Takes the sockets over."""
    tasks: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not stopping.is_set():
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                method, path, _ = head.split("\r\n", 1)[0].split(" ")
                session = next(
                    (line[9:].strip() for line in head.split("\r\n") if line.lower().startswith("session:")), ""
                )
                status, body = await respond(method, path, session)
                writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def respond(method: str, path: str, session: str) -> tuple[int, bytes]:
        for route in settings.routes:
            found = _match(route, path)
            if found is None or route.kind is not EntryKind.FUNCTION:
                continue
            try:
                number = await backend.begin_session(session) if session else 0
                reply = await backend.call(route, number, FunctionRequest(method, found))
            except ShardwrightError as error:
                return 503, f"{error.code} {error}".encode()
            return reply.status, reply.body
        return 404, b""

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(answer(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    servers = [await asyncio.start_server(connected, sock=each) for each in sockets]
    await stopping.wait()
    for server in servers:
        server.close()
    if tasks:
        await asyncio.wait(tasks, timeout=0.5)


def _match(route: RouteTarget, path: str) -> dict[str, str] | None:
    wanted, given = route.path.split("/"), path.split("/")
    if len(wanted) != len(given):
        return None
    names = {}
    for pattern, text in zip(wanted, given, strict=True):
        if pattern.startswith("{"):
            names[pattern[1:-1]] = text
        elif pattern != text:
            return None
    return names
