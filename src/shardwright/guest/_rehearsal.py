"""Calls that call nothing, so that the first one that does finds everything there.

A shard that was just forked shares its template's pages, and has not run what a call runs: its first call wrote to 390 pages,
and waited for two threads to begin. A rehearsal goes every way that a call goes, but to user code.
"""

from __future__ import annotations

import asyncio
from typing import Any

from shardwright.guest._context import new_identifier
from shardwright.guest._incoming import NOTHING
from shardwright.guest._link import Link
from shardwright.model.envelope import Envelope, Kind
from shardwright.model.ids import MethodId, SessionNumber
from shardwright.model.shard import EntryKind, ShardDefinition

MOST = 8  # functions that are looked up; what they share is most of it


async def rehearse(link: Link, definition: ShardDefinition) -> None:
    """On an event loop. Raises ChannelClosed, and what waiting does; that a function may not be called is no concern."""
    methods = [
        entry.method_id
        for entry in definition.entry_points
        if entry.kind is EntryKind.FUNCTION
        and not (entry.is_async or entry.is_generator)
        and entry.module == definition.code.primary
    ]
    for kind, method in ((Kind.GET, MethodId(0)), *((Kind.CALL, method) for method in methods[:MOST])):
        await ask(link, kind, method, NOTHING)


async def ask(link: Link, kind: Kind, method: MethodId, value: object, session: int = 0) -> None:
    """One call, until it is answered. Raises ChannelClosed, CannotCross."""
    answer = _Answer(asyncio.get_running_loop())
    payload, buffers, _ = link.codec.encode_request(value, describe=lambda steps: "a rehearsal")
    envelope = Envelope(
        kind, link.next_id(), session=SessionNumber(session), method=method, codec=link.codec_id, payload=payload,
        buffers=buffers, chain=new_identifier(),
    )  # fmt: skip
    link.begin(envelope, answer)
    await answer.future


class _Answer:
    """The ticket of one of them: what it comes to is no concern, but that it comes."""

    __slots__ = ("_loop", "future")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.future: asyncio.Future[None] = loop.create_future()

    def deliver(self, outcome: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(self._settle)
        except RuntimeError:
            pass  # the loop was closed meanwhile: nobody waits

    def _settle(self) -> None:
        if not self.future.done():
            self.future.set_result(None)
