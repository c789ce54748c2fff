"""Who plays in which world. Each world that somebody watches has a clock, which lets time pass, and an ear for its chat."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from arena import chat, physics
from arena.models import Frame, Message
from arena.visitors import WORLDS
from arena.web._outbox import Outbox, encode

FRAME_S = 1 / 15
LONGEST_FRAME_S = 0.25  # a late frame does not throw bodies about
TROUBLE_PAUSE_S = 0.4
LISTEN_S = 10.0
COUNT_PAUSE_S = 0.3
THREADS = 32

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("arena.web")


class Seat:
    """One player's place in the crowd.

    ``stir`` is set when the player has something to hear from the game; ``replaced`` is called when it plays elsewhere.
    """

    def __init__(
        self, name: str, secret: str, world: str, outbox: Outbox, stir: asyncio.Event, replaced: Callable[[], None]
    ) -> None:
        self.name = name
        self.secret = secret
        self.world = world
        self.outbox = outbox
        self.replaced = replaced
        self.wheel = (0.0, 0.0)
        self.stir = stir

    def __repr__(self) -> str:
        return f"Seat({self.name!r}, {self.world!r})"


class Crowd:
    """Everybody who is connected."""

    def __init__(self) -> None:
        self._seats: dict[str, Seat] = {}
        self._places: dict[str, _Place] = {}
        self._readers: set[Outbox] = set()
        self._pool: ThreadPoolExecutor | None = None
        self._counting: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"Crowd(players={len(self._seats)}, worlds={sorted(self._places)})"

    async def thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that may block, beside the event loop and in the context of the caller."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="arena-web")
        context = contextvars.copy_context()
        work: Callable[[], T] = lambda: context.run(function, *args, **kwargs)  # noqa: E731
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def counts(self) -> dict[str, int]:
        """How many play in each world."""
        return {world: len(self._places[world].seats) if world in self._places else 0 for world in WORLDS}

    def watch(self, outbox: Outbox) -> None:
        """Tell this one how many play where, now and whenever it changes, until ``unwatch``."""
        self._readers.add(outbox)

    def unwatch(self, outbox: Outbox) -> None:
        self._readers.discard(outbox)

    def add(self, seat: Seat) -> None:
        """A player has come in. One of the same name and secret, in another window, is shown out."""
        other = self._seats.get(seat.name)
        if other is not None and other is not seat:
            self.remove(other)
            other.replaced()
        self._seats[seat.name] = seat
        place = self._places.get(seat.world)
        if place is None:
            place = self._places[seat.world] = _Place(seat.world, self)
        place.seats[seat.name] = seat
        self._counted()

    def remove(self, seat: Seat) -> bool:
        """A player has gone, or moves elsewhere; false if somebody else has its place."""
        if self._seats.get(seat.name) is not seat:
            return False
        del self._seats[seat.name]
        place = self._places[seat.world]
        del place.seats[seat.name]
        if not place.seats:
            del self._places[seat.world]
            place.close()
        self._counted()
        return True

    async def close(self) -> None:
        """End all clocks and ears."""
        places, self._places = list(self._places.values()), {}
        self._seats.clear()
        for place in places:
            place.close()
        await asyncio.gather(*(task for place in places for task in place.tasks), return_exceptions=True)
        if self._counting is not None:
            self._counting.cancel()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _counted(self) -> None:
        if self._counting is None:
            self._counting = asyncio.get_running_loop().call_later(COUNT_PAUSE_S, self._tell_counts)

    def _tell_counts(self) -> None:
        self._counting = None
        text = encode({"t": "counts", "worlds": self.counts()})
        for outbox in self._readers:
            outbox.line(text)


class _Place:
    """One world that somebody watches."""

    def __init__(self, world: str, crowd: Crowd) -> None:
        self.world = world
        self.crowd = crowd
        self.seats: dict[str, Seat] = {}
        self.tasks = tuple(_apart(work) for work in (self._clock(), self._ear()))

    def close(self) -> None:
        for task in self.tasks:
            task.cancel()

    async def _clock(self) -> None:
        loop = asyncio.get_running_loop()
        before = due = loop.time()
        trouble = False
        while True:
            due = max(due + FRAME_S, loop.time())
            await asyncio.sleep(due - loop.time())
            now = loop.time()
            passed, before = min(now - before, LONGEST_FRAME_S), now
            try:
                frame = await self.crowd.thread(physics.advance, self.world, passed)
            except Exception as error:  # whatever it is: the world may be back in a moment
                if not trouble:
                    log.warning("the clock of %s: %r", self.world, error)
                trouble = True
                await asyncio.sleep(TROUBLE_PAUSE_S)
            else:
                trouble = False
                self._show(frame, loop.time())

    def _show(self, frame: Frame, now: float) -> None:
        bodies = [[b.player, round(b.x, 3), round(b.y, 3), round(b.vx, 2), round(b.vy, 2)] for b in frame.bodies]
        text = encode({"t": "frame", "w": self.world, "n": frame.ticks, "at": round(now * 1000), "b": bodies})
        here = {body.player for body in frame.bodies}
        for seat in self.seats.values():
            seat.outbox.frame(text)
            if seat.name in frame.finders or seat.name not in here:
                seat.stir.set()

    async def _ear(self) -> None:
        heard: int | None = None
        trouble = False
        while True:
            try:
                if heard is None:
                    messages: Sequence[Message] = await chat.recent(self.world)
                else:
                    messages = await chat.wait(self.world, heard, LISTEN_S)
            except Exception as error:
                if not trouble:
                    log.warning("the ear in %s: %r", self.world, error)
                trouble, heard = True, 0  # it may count from 1 again; who hears a line twice shows it once
                await asyncio.sleep(TROUBLE_PAUSE_S)
                continue
            trouble = False
            if heard is None or messages:
                text = encode({"t": "chat", "w": self.world, "lines": lines(messages)})
                for seat in self.seats.values():
                    seat.outbox.line(text)
            heard = messages[-1].number if messages else heard or 0


def lines(messages: Sequence[Message]) -> list[list[Any]]:
    """Chat messages as they travel."""
    return [[message.number, message.player, message.text] for message in messages]


def _apart(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task that outlives the conversation that began it, and so takes nothing over from it."""
    return asyncio.create_task(work, context=contextvars.Context())
