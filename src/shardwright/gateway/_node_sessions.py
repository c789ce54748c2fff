"""The sessions that the gateway knows of: begun by the node, used by requests, ended by either."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Callable
from functools import partial

from shardwright.errors import ChannelClosed, NotPermitted, ShardLost
from shardwright.gateway._backend import OWN_SESSION, SessionRefused
from shardwright.gateway._talk import NodeTalk
from shardwright.guest import BeginSession, CallContext, EndSession, SessionBegun, UseSessions
from shardwright.model.ids import SessionNumber

OWN_NAME = "gateway"  # of the session of requests that need none
TELL_S = 5.0  # so often, at most, the node is told which sessions are used


class NodeSessions:
    """Asks the node for sessions and tells it which are used. Use from its event loop alone.

    ``idle_s`` is when the node ends a session that it does not hear of; ``ended`` is called with the number of each that
    has ended, before ``on_ended`` with its name.
    """

    def __init__(self, talk: NodeTalk, idle_s: float, ended: Callable[[SessionNumber], None]) -> None:
        self._talk = talk
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._requests = itertools.count(1)
        self._asked: dict[int, asyncio.Future[SessionBegun]] = {}
        self._beginning: dict[str, asyncio.Task[int]] = {}
        self._numbers: dict[str, int] = {}
        self._contexts: dict[int, CallContext] = {}  # of sessions that live
        self._used: set[int] = set()
        self._open: Counter[int] = Counter()  # sessions, and their exchanges that are open
        self._tell_s = min(TELL_S, idle_s / 4)
        self._timer: asyncio.TimerHandle | None = None
        self.on_ended: Callable[[str], None] | None = None
        self._tell()

    def __repr__(self) -> str:
        return f"<NodeSessions {len(self._numbers)}>"

    def __len__(self) -> int:
        return len(self._numbers)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for task in self._beginning.values():
            task.cancel()

    # -- by name -----------------------------------------------------------------------------------------------

    def number(self, name: str) -> int | None:
        """None: it does not live, as far as is known here."""
        return self._numbers.get(name)

    async def begin(self, name: str) -> int:
        """Begin it, or find it alive. Raises SessionRefused, ShardLost."""
        number = self._numbers.get(name)
        if number is not None:
            return number
        task = self._beginning.get(name)
        if task is None:
            task = self._beginning[name] = self._loop.create_task(self._begin(name))
            task.add_done_callback(partial(self._was_asked, name))
        return await asyncio.shield(task)

    def end(self, name: str) -> None:
        with contextlib.suppress(ChannelClosed):  # with the node all its sessions went
            self._talk.send(EndSession(name))

    # -- by number ---------------------------------------------------------------------------------------------

    def known(self, session: int) -> CallContext | None:
        """The context of that session's calls, without asking; None when it has ended, or is to be asked for."""
        return self._contexts.get(session or self._numbers.get(OWN_NAME, 0))

    async def context(self, session: int) -> CallContext:
        """The same; the gateway's own session begins if need be. Raises NotPermitted when it has ended, and as ``begin``."""
        if session == OWN_SESSION:
            session = await self.begin(OWN_NAME)
        context = self._contexts.get(session)
        if context is None:
            raise NotPermitted("the session has ended", outcome="not started", remedy="begin a new one")
        return context

    def use(self, session: int) -> None:
        """A request of it runs, or ran just now."""
        self._used.add(session)

    def opened(self, session: int) -> None:
        """It is used until as many exchanges were closed as were opened."""
        self._open[session] += 1

    def closed(self, session: int) -> None:
        self._used.add(session)
        self._open[session] -= 1
        if not self._open[session]:
            del self._open[session]

    # -- what the node says ------------------------------------------------------------------------------------

    def on_begins(self, number: int, name: str) -> None:
        self._numbers[name] = number
        self._contexts[number] = CallContext(session=SessionNumber(number), session_name=name)

    def on_begun(self, answer: SessionBegun) -> None:
        future = self._asked.get(answer.request)
        if future is not None and not future.done():
            future.set_result(answer)

    def on_ends(self, number: int) -> None:
        context = self._contexts.pop(number, None)
        self._used.discard(number)
        self._ended(SessionNumber(number))
        if context is not None and self._numbers.get(context.session_name) == number:
            del self._numbers[context.session_name]
            if self.on_ended is not None:
                self.on_ended(context.session_name)

    # -- inside ------------------------------------------------------------------------------------------------

    async def _begin(self, name: str) -> int:
        request = next(self._requests)
        future = self._asked[request] = self._loop.create_future()
        try:
            self._talk.send(BeginSession(request, name))
            answer: SessionBegun = await future
        except ChannelClosed as gone:
            raise ShardLost(f"the node is gone: {gone}", outcome="not started") from None
        finally:
            self._asked.pop(request, None)
        if not answer.session:
            raise SessionRefused(answer.error, reason_code=answer.code, remedy=answer.remedy)
        return answer.session

    def _was_asked(self, name: str, task: asyncio.Task[int]) -> None:
        self._beginning.pop(name, None)
        if not task.cancelled():
            task.exception()  # looked at: whoever asked may have gone

    def _tell(self) -> None:
        """Tell the node which sessions are used, now and then; until it is closed."""
        used = tuple(self._used.union(self._open))
        self._used.clear()
        if used:
            try:
                self._talk.send(UseSessions(used))
            except ChannelClosed:
                return
        self._timer = self._loop.call_later(self._tell_s, self._tell)
