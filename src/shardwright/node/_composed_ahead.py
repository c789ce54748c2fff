"""A session composed ahead: the shards that the next one will have, chosen among those that are free, and ready to be called.

Whoever begins a session as it usually begins, entered by all components and without keys, takes it on the thread that asks: a
name is entered, and nobody is waited for. What else is to be done comes a millisecond later, on the loop: the composer's
decision with its record, the name for the shards, the next of its kind.

Nothing is leased before it is taken. Its shards are free ones of the pool; they know the number of the session, and those that
this process calls have a channel by which calls have gone already (``rehearse``): their threads run, and the pages
that a first call writes are theirs. ``Ledger`` holds to the order in which this may happen:

1. What was taken is entered (``settle``) before anybody looks at the roster, or decides from it.
2. What was not taken is withdrawn before any decision by which its shards might go to somebody else. To take and to withdraw
   exclude each other (``_mutex``).

An exception that a signal raises in ``take`` leaves the session either untaken, or taken and ended; between the two it is
nobody's, and is found out when the next one is prepared.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from shardwright.composition import Need, needs_of
from shardwright.errors import CompositionRefused, ShardwrightError
from shardwright.guest import CallContext, Link, Route, rehearse
from shardwright.model.endpoint import Peer
from shardwright.model.ids import ComponentName, SessionNumber, ShardId
from shardwright.model.scope import ScopeKind
from shardwright.node._alarm import Alarm
from shardwright.node._bindings import CLIENT
from shardwright.node._live_session import LiveSession

if TYPE_CHECKING:
    from shardwright.node._client import Client
    from shardwright.node._core import Core
    from shardwright.node._port import ShardPort

AFTER_S = 0.003  # of quiet: what is asked for now comes first
ENTERED_AFTER_S = 0.001
AGAIN_S = 0.25  # where it could not be done, or something changed meanwhile
REHEARSAL_S = 2.0
ATTEMPTS = 3  # while shards come and go
_unnamed = itertools.count(1)


def unnamed() -> str:
    """A name for a session that was given none."""
    return f"session-{os.getpid()}-{next(_unnamed)}"


class Prepared(Struct):
    """A session that nobody has yet. ``shards``: those that it would lease."""

    live: LiveSession
    needs: tuple[Need, ...]
    shards: frozenset[ShardId]
    links: tuple[Link, ...]


class ComposedAhead:
    """At most one session that waits to be taken. Use from the node's loop, but for ``take``."""

    def __init__(self, core: Core, entries: tuple[str, ...]) -> None:
        self._core = core
        self._entries = entries
        self._loop = asyncio.get_running_loop()
        self._mutex = threading.Lock()
        self._ready: Prepared | None = None
        self._taken: deque[Prepared] = deque()
        self._made: Prepared | None = None  # the latest
        self._links: dict[ShardId, Link] = {}  # to free shards
        self._called: set[ComponentName] = set()  # of session scope, by this process
        self._early: dict[ShardId, tuple[SessionNumber, Link]] = {}  # to shards that were started for that session
        self._started: set[SessionNumber] = set()  # sessions that had their channels before they asked
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._alarm: Alarm | None = None
        self._wanted = self._closed = False
        self.client: Client | None = None

    def __repr__(self) -> str:
        return f"<ComposedAhead {'one' if self._ready is not None else 'none'} waits>"

    @property
    def ready(self) -> bool:
        """Whether one waits."""
        return self._ready is not None

    # -- any thread --------------------------------------------------------------------------------------------

    def take(self, name: str | None) -> LiveSession | None:
        """The session that waits, by that name; None when there is none. Raises CompositionRefused for a name in use."""
        if not self.ready:
            return None
        found: Prepared | None = None
        try:
            with self._mutex:
                waiting = self._ready
                if waiting is None or any(link.closed for link in waiting.links):
                    return None
                live = waiting.live
                name = unnamed() if name is None else name
                if self._core.names.setdefault(name, live.number) != live.number:
                    raise taken_already(name)
                live.name = name
                self._ready, found = None, waiting
                self._taken.append(waiting)
                if self._alarm is not None:
                    self._alarm.set()
        except BaseException:
            if found is not None:
                self._loop.call_soon_threadsafe(self._core.end_session, found.live.number)
            raise
        return live

    # -- the loop: what was set apart (SetApart) ---------------------------------------------------------------

    def settle(self) -> None:
        while self._taken:
            self._enter(self._taken.popleft())

    def withdraw(self, shard: ShardId | None = None) -> None:
        with self._mutex:
            found = self._ready
            if found is not None and (shard is None or shard in found.shards):
                self._ready = None
            else:
                found = None
        if found is not None:
            self._undo(found)
        else:
            self.settle()  # it may have been taken just now, since the last look

    # -- the loop: what happens --------------------------------------------------------------------------------

    def wish(self) -> None:
        """A session was begun as one may be taken: there may be more of them."""
        self._wanted = self.client is not None
        self.soon()

    def called(self, component: ComponentName) -> None:
        """This process calls shards of it, which have one session each."""
        self._called.add(component)

    def start_with(self, port: ShardPort, sessions: tuple[SessionNumber, ...]) -> None:
        """It was started for that session, which this process is about to call it for: its channel need not be asked for.

        It is the session's once that has begun: until then its composition may be aborted, and the shard go to another.
        """
        client, component = self.client, port.component
        if client is None or component not in self._called or len(sessions) != 1 or self._closed:
            return
        try:
            ours, theirs = self._core.bindings.between(CLIENT, component).pair()
        except OSError:
            return  # whoever calls it makes one, or hears why there can be none
        (number,) = sessions
        port.accept(Peer(CLIENT.component, CLIENT.shard, frozenset(sessions)), theirs)
        self._early[port.shard] = number, client.open_link(Peer(component, port.shard), ours)

    def begun(self, number: SessionNumber) -> None:
        """That session has all its shards."""
        if self.client is None or not self._early:
            return
        for shard in self._core.shards.composer.held_by(number):
            if shard not in self._early or self._early[shard][0] != number:
                continue
            _, link = self._early.pop(shard)
            component = link.peer.component
            definition = self._core.plan.definition(component)
            self.client.router.bound(definition, Route(component, number), CallContext(session=number), [link])
            self._started.add(number)
        self._drop_early(number)

    def _drop_early(self, number: SessionNumber) -> None:
        for shard in [shard for shard, (its, _) in self._early.items() if its == number]:
            self._early.pop(shard)[1].close()

    def ended(self, number: SessionNumber) -> None:
        """That session has ended, or did not begin after all."""
        self._drop_early(number)
        if self.client is not None and number in self._started:
            self._started.discard(number)
            for link in self.client.router.session_ended(number):
                link.close()

    def soon(self) -> None:
        """Something changed: perhaps one can be prepared, once it is quiet."""
        if self._wanted and not self._closed and self._ready is None and self._task is None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(AFTER_S, self._begin)

    def forget(self, shard: ShardId) -> None:
        """It has ended."""
        _, early = self._early.pop(shard, (0, None))
        for link in (self._links.pop(shard, None), early):
            if link is not None:
                link.close()

    def close(self) -> None:
        """Nothing is prepared any more. Idempotent."""
        self.settle()
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self.withdraw()
        with self._mutex:
            alarm, self._alarm = self._alarm, None
        if alarm is not None:
            alarm.close()
        for shard in {*self._links, *self._early}:
            self.forget(shard)

    # -- inside ------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._timer = None
        if self._closed or self._ready is not None or self._task is not None:
            return
        with self._mutex:  # whoever was about to take it has it now, and has said so
            pass
        self.settle()
        if (lost := self._made) is not None:  # neither taken, nor withdrawn
            self._undo(lost)
        if self._chosen() is not None:
            self._task = self._loop.create_task(self._prepare())
            self._task.add_done_callback(self._prepared)

    def _prepared(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (defect := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "no session could be prepared", "exception": defect})
        if self._ready is None and not self._closed and self._timer is None:
            self._timer = self._loop.call_later(AGAIN_S, self._begin)

    def _needs(self) -> tuple[Need, ...]:
        return needs_of(self._core.plan, self._entries)

    def _chosen(self) -> dict[ShardId, ComponentName] | None:
        """Shards that a session would have now, none of them in doubt."""
        shards = self._core.shards
        found = shards.composer.at_hand(self._needs())
        if not found:
            return None
        chosen = {shard: need.component for need, shard in found}
        if any(shard not in shards.ports or shards.proof(shard) is not None for shard in chosen):
            return None
        return chosen

    def _own(self, chosen: Mapping[ShardId, ComponentName]) -> list[ShardId]:
        """Those that would be the session's alone."""
        scope = {d.component: d.scope.kind for d in self._core.plan.definitions}
        return [shard for shard, component in chosen.items() if scope[component] is ScopeKind.SESSION]

    async def _prepare(self) -> None:
        for _ in range(ATTEMPTS):
            chosen = self._chosen()
            if chosen is None:
                return
            lacking = [
                shard
                for shard in self._own(chosen)
                if chosen[shard] in self._called and ((link := self._links.get(shard)) is None or link.closed)
            ]
            if not lacking:
                self._set_apart(chosen)
                return
            for shard in lacking:
                if not await self._linked(shard, chosen[shard]):
                    return

    async def _linked(self, shard: ShardId, component: ComponentName) -> bool:
        """Whether there is a channel to it by which a call has gone."""
        client, port = self.client, self._core.shards.ports.get(shard)
        assert client is not None
        if port is None or not port.alive():
            return False
        try:
            ours, theirs = self._core.bindings.between(CLIENT, component).pair()
        except OSError:
            return False  # whoever calls it makes one, or hears why there can be none
        port.accept(CLIENT, theirs)
        link = client.open_link(Peer(component, shard), ours)
        try:
            await asyncio.wait_for(rehearse(link, self._core.plan.definition(component)), REHEARSAL_S)
        except (ShardwrightError, TimeoutError):
            link.close()
            return False
        except BaseException:
            link.close()
            raise
        if self._closed:  # wait_for may return what has come just when it is cancelled, until Python 3.12
            link.close()
            return False
        self._links[shard] = link
        return True

    def _set_apart(self, chosen: Mapping[ShardId, ComponentName]) -> None:
        core, client = self._core, self.client
        assert client is not None
        live = LiveSession(core.new_number(), "", core.now_wall_s())
        own = self._own(chosen)
        links = tuple(self._links.pop(shard) for shard in own if shard in self._links)
        for shard in chosen:
            core.shards.ports[shard].session_begins(live.number, "")
            live.told.add(shard)
        context = CallContext(session=live.number)
        for link in links:
            definition = core.plan.definition(link.peer.component)
            client.router.bound(definition, Route(link.peer.component, live.number), context, [link])
            client.lead(link, live.number)
        if self._alarm is None:
            self._alarm = Alarm(self.settle, ENTERED_AFTER_S)
        self._made = self._ready = Prepared(live, self._needs(), frozenset(own), links)

    def _undo(self, prepared: Prepared) -> None:
        """Nobody takes it: its shards are what they were."""
        core, number = self._core, prepared.live.number
        self._made = None
        if core.names.get(prepared.live.name) == number:
            del core.names[prepared.live.name]
        if self.client is not None:
            for link in self.client.router.session_ended(number):
                self._links[link.peer.shard] = link
        for shard in prepared.live.told:
            if (port := core.shards.ports.get(shard)) is not None:
                port.session_ends(number)
        self.soon()

    def _enter(self, prepared: Prepared) -> None:
        """It was taken: from now on it is a session like any other."""
        core, live = self._core, prepared.live
        if self._made is prepared:
            self._made = None
        core.enter(live)
        core.shards.enter(live.number, prepared.needs, prepared.shards)
        for shard in live.told:
            with contextlib.suppress(KeyError):  # it has ended
                core.shards.ports[shard].session_begins(live.number, live.name)
        core.introduce_all(live)
        self.soon()


def taken_already(name: str) -> CompositionRefused:
    return CompositionRefused(f"session {name!r} exists already", remedy="end it first, or choose another name")
