"""Templates: processes that have imported a component, of which its shards are forked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from shardwright.errors import StartFailed
from shardwright.guest import Ended, Fork, Forked, Note
from shardwright.model.ids import ShardId
from shardwright.node._port import GuestPort

_EXITS_KEPT = 256  # reports of a template that nobody asked for


class TemplateEnded(StartFailed):
    """A fork was asked of a template that was about to end, or came to harm while it waited; another attempt may do."""


class Template:
    """A running template, and the forks asked of it."""

    def __init__(
        self,
        port: GuestPort,
        on_gone: Callable[[Template], Coroutine[Any, Any, None]],
        on_note: Callable[[GuestPort, Note], None],
        backend: str = "process",
        own_network: bool = True,
    ) -> None:
        self.port = port
        self._on_note = on_note
        self.backend = backend  # of its sandbox, and of those of its forks
        self.own_network = own_network
        self._on_gone = on_gone
        self._asked: dict[str, asyncio.Future[str]] = {}
        self._exits: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None
        self.replaced = False  # its end is no loss
        self.again = False  # whether more shards than one may be forked of it
        self.forks = 0

    def watch(self) -> None:
        self._task = asyncio.create_task(self._read(), name=f"{self.port.shard} messages")

    async def has_ended(self, within_s: float) -> bool:
        """Whether it has ended by then: a killed process takes its time to close its descriptors."""
        if self._task is not None and not self.port.closed:
            await asyncio.wait({self._task}, timeout=within_s)
        return bool(self.port.closed)

    def fork(self, shard: ShardId, control: int, lifeline: int) -> asyncio.Future[str]:
        """Ask for a fork; the future is done only when it failed, with the reason. Uses the descriptors up."""
        failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._asked[shard] = failed
        self.forks += 1
        self.port.send(Fork(shard), (control, lifeline))
        return failed

    def forked(self, shard: ShardId) -> None:
        """It is there."""
        self._asked.pop(shard, None)

    async def exit_of(self, shard: ShardId, patience_s: float = 0.1) -> int | None:
        """How a shard that was forked here ended; None when the template does not tell."""
        end_s = time.monotonic() + patience_s
        while shard not in self._exits and not self.port.closed and time.monotonic() < end_s:
            await asyncio.sleep(0.002)
        return self._exits.pop(shard, None)

    async def _read(self) -> None:
        while True:
            message = await self.port.next_message()
            if isinstance(message, Forked):
                future = self._asked.pop(message.shard, None)
                if future is not None and message.error and not future.done():
                    future.set_result(message.error)
            elif isinstance(message, Ended):
                self._exits[message.shard] = message.status
                while len(self._exits) > _EXITS_KEPT:
                    del self._exits[next(iter(self._exits))]
            elif isinstance(message, Note):
                self._on_note(self.port, message)
            elif message is None:
                for future in self._asked.values():
                    if not future.done():
                        future.set_result("the template ended")
                await self._on_gone(self)
                return
            else:
                self.port.close(f"the template sent {type(message).__name__} out of turn")
