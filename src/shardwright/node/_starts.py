"""What a guest says until it is ready, and what is told to whoever waits for that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from shardwright.contracts.sandbox import Exit
from shardwright.errors import StartFailed
from shardwright.guest import VERSION, Bind, Failed, Hello, Note, Ready, Unbind, Why
from shardwright.model.ids import ComponentName
from shardwright.node._import_errors import import_error
from shardwright.node._launcher import end_in_words, remedy_of
from shardwright.node._logs import Logs
from shardwright.node._port import GuestPort, ShardPort


class LaunchEvents(Protocol):
    """Who listens to shards and templates that are not the node's yet: the core."""

    def record(self, kind: str, reason: str, *, component: str = "", shard: str = "") -> None: ...

    def on_bind(self, port: ShardPort, bind: Bind) -> None: ...

    def on_unbind(self, port: ShardPort, unbind: Unbind) -> None: ...

    def on_why(self, port: ShardPort, why: Why) -> None: ...

    def on_note(self, port: ShardPort, note: Note) -> None: ...


class Starts:
    """The conversations with guests that start. ``end`` ends one; ``timeout_of``: seconds that a component has for it."""

    def __init__(
        self,
        events: LaunchEvents,
        logs: Logs,
        end: Callable[[GuestPort], Awaitable[Exit | None]],
        timeout_of: Callable[[ComponentName], float],
    ) -> None:
        self._events = events
        self._logs = logs
        self._end = end
        self._timeout_of = timeout_of

    async def hello(self, port: GuestPort, failed: asyncio.Future[str] | None = None) -> None:
        """Its first words. ``failed``: why there will be none. Raises StartFailed."""
        hello = await self._expect(port, Hello, failed)
        if hello.version != VERSION:
            raise StartFailed(
                f"the guest speaks control version {hello.version}, the node {VERSION}",
                remedy="guest and node must be of one installation",
            )

    async def ready(self, port: GuestPort) -> Ready:
        """That it is ready. Raises StartFailed, ComponentImportError."""
        found = await self._expect(port, Ready)
        assert isinstance(found, Ready)
        return found

    async def _expect(self, port: GuestPort, kind: type[Any], failed: asyncio.Future[str] | None = None) -> Any:
        """The next message, which must be of that kind."""
        timeout_s = self._timeout_of(port.component)
        end_s = time.monotonic() + timeout_s
        while True:
            waiting = asyncio.ensure_future(port.next_message())
            futures: set[asyncio.Future[Any]] = {waiting} if failed is None else {waiting, failed}
            left_s = max(0.0, end_s - time.monotonic())
            try:
                done, _ = await asyncio.wait(futures, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not waiting.done():
                    waiting.cancel()
            if waiting in done and isinstance(waiting.result(), Note):
                self._events.on_note(port, waiting.result())
                continue
            if kind is Ready and waiting in done and isinstance(waiting.result(), (Bind, Unbind, Why)):
                self._early(port, waiting.result())
                continue
            break
        if not done:
            raise StartFailed(
                f"{port.component} did not become ready within {timeout_s:g} s (hangs during import?)",
                log=self._logs.last_lines(port.shard),
                remedy="raise start_timeout in its section of the manifest, or look at what its import waits for",
            )
        if failed is not None and failed in done and waiting not in done:
            raise StartFailed(f"{port.shard}: {failed.result()}")
        message = waiting.result()
        if isinstance(message, kind):
            return message
        if isinstance(message, Failed):
            raise import_error(port.component, message.message, message.traceback)
        if message is None:
            ended = await self._end(port)
            self._logs.drain()
            raise StartFailed(
                f"{port.component} ended while it started: {end_in_words(port.closed, ended)}",
                log=self._logs.last_lines(port.shard),
                remedy=remedy_of(port.component, ended),
            )
        raise StartFailed(f"{port.shard} sent {type(message).__name__} instead of {kind.__name__}")

    def _early(self, port: GuestPort, message: Bind | Unbind | Why) -> None:
        """A spawned shard may call others while it is imported."""
        if isinstance(message, Bind):
            self._events.on_bind(port, message)
        elif isinstance(message, Why):
            self._events.on_why(port, message)
        else:
            self._events.on_unbind(port, message)
