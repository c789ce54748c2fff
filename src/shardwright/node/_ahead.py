"""Forks made ahead of demand: for each template that shards were just asked of, one that waits to be told who it is.

It is forked, in namespaces of its own, and nobody yet: no name, no session, no secrets, no log, none of a shard's limits. What
is left to do for the next shard of that kind is what cannot be done before (``Enter``). It is no warm shard, and the pool
does not count it: a template whose shards nobody asked for in a minute has none.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable

from msgspec import Struct

from shardwright.errors import ShardwrightError
from shardwright.model.ids import ShardId
from shardwright.model.limits import Limits
from shardwright.node._port import GuestPort
from shardwright.node._templates import Template

AFTER_S = 0.02  # of quiet: what is asked for at once comes first
KEPT_S = 60.0


class Nobody(Struct):
    """A fork of a template that said hello. ``entrances`` lead into control groups that were made for it.

    ``held`` is the other end of its lifeline, until the keeper has it.
    """

    template: Template
    port: GuestPort
    name: ShardId
    limits: Limits
    held: socket.socket
    entrances: list[int]


class Ahead:
    """At most one fork that waits for each template. Use from the node's event loop alone.

    ``begin`` makes one (and may raise ShardwrightError, OSError; then nothing is left), ``end`` ends one for good.
    """

    def __init__(
        self,
        begin: Callable[[Template, ShardId, Limits], Awaitable[Nobody]],
        end: Callable[[Nobody], Awaitable[None]],
    ) -> None:
        self._begin = begin
        self._end = end
        self._numbers = itertools.count(1)
        self._waiting: dict[Template, Nobody] = {}
        self._timers: dict[Template, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._making: set[Template] = set()
        self._closing = False

    def __repr__(self) -> str:
        return f"<Ahead {len(self._waiting)} wait>"

    def take(self, template: Template, limits: Limits) -> Nobody | None:
        """The one that waits there, if it still does and was made for such limits; it is the caller's from now on."""
        found = self._waiting.pop(template, None)
        if found is None:
            return None
        if found.limits == limits and found.port.alive():
            return found
        self._spawn(self._end(found))
        return None

    def soon(self, template: Template, limits: Limits) -> None:
        """A shard of it was asked for: another may be."""
        self._later(template, AFTER_S, lambda: self._make(template, limits))

    def drop(self, template: Template) -> None:
        """No shard is forked of it any more."""
        timer = self._timers.pop(template, None)
        if timer is not None:
            timer.cancel()
        found = self._waiting.pop(template, None)
        if found is not None:
            self._spawn(self._end(found))

    async def close(self) -> None:
        """End all that wait, and wait for that."""
        self._closing = True
        for template in [*self._timers, *self._waiting]:
            self.drop(template)
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    def _make(self, template: Template, limits: Limits) -> None:
        self._later(template, KEPT_S, lambda: self.drop(template))
        if template not in self._waiting and template not in self._making and not template.port.closed:
            self._making.add(template)
            self._spawn(self._made(template, limits))

    async def _made(self, template: Template, limits: Limits) -> None:
        try:
            made = await self._begin(template, ShardId(f"{template.port.shard}-fork-{next(self._numbers)}"), limits)
        except (ShardwrightError, OSError):
            return  # whoever asks for a shard hears why there can be none
        finally:
            self._making.discard(template)
        if self._closing or template.replaced or template.port.closed:
            await self._end(made)
        else:
            self._waiting[template] = made

    def _later(self, template: Template, delay_s: float, do: Callable[[], None]) -> None:
        before = self._timers.pop(template, None)
        if before is not None:
            before.cancel()
        if not self._closing:
            self._timers[template] = asyncio.get_running_loop().call_later(delay_s, do)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
