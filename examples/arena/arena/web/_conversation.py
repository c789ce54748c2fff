"""One browser's conversation: what it may say, what that does in the game, and what it is told.

Every message is a JSON object whose ``t`` is its kind. From the browser: ``enter`` (name, secret, world), ``steer`` (dx,
dy: a direction, at most 1 long), ``travel`` (world), ``say`` (text), ``buy`` (item), ``leave``, ``ping`` (at).
To it: ``hello``, ``in``, ``frame``, ``you``, ``chat``, ``counts``, ``no``, ``out``, ``pong``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeGuard

from starlette.websockets import WebSocket, WebSocketDisconnect

from arena import chat, game
from arena.maps import world_map
from arena.models import PRICES, Action, ArenaError, Chest, NotEntered, View
from arena.visitors import WORLDS
from arena.web._crowd import Crowd, Seat, lines
from arena.web._outbox import Outbox, encode

LONGEST_MESSAGE = 4096  # characters
LONGEST_NAME = 16
MESSAGES_A_SECOND, MESSAGES_AT_ONCE = 60.0, 180.0
CHATS_A_SECOND, CHATS_AT_ONCE = 1.0, 5.0
SPEED = 4.6  # cells per second
STEER_PAUSE_S = 0.03
HEARTBEAT_S = 2.0
TROUBLE_PAUSE_S = 0.3

REPLACED, TOO_FAST, TOO_LONG, TOO_SLOW = 4001, 4008, 1009, 4013  # why we close

log = logging.getLogger("arena.web")


class Refused(Exception):
    """What the player wants cannot be; ``why`` is for the page, the text for the player."""

    def __init__(self, why: str, text: str) -> None:
        super().__init__(text)
        self.why = why


class Conversation:
    """From connecting to leaving."""

    def __init__(self, socket: WebSocket, crowd: Crowd) -> None:
        self._socket = socket
        self._crowd = crowd
        self._outbox = Outbox()
        self._seat: Seat | None = None
        self._known: tuple[int, dict[str, int]] | None = None  # score and things, as the page shows them
        self._stir = asyncio.Event()  # set when there is something to tell the game
        self._turn = asyncio.Lock()  # one call of this player at a time
        self._closing: int | None = None
        self._answers: dict[str, Callable[[dict[str, Any]], Awaitable[None]]] = {
            "enter": self._enter,
            "steer": self._steer,
            "travel": self._travel,
            "say": self._say,
            "buy": self._buy,
            "leave": self._leave,
            "ping": self._ping,
        }

    async def run(self) -> None:
        """Talk until the browser is gone."""
        await self._socket.accept()
        self._tell(t="hello", worlds=[_ground(world) for world in WORLDS], counts=self._crowd.counts(), prices=PRICES)
        self._crowd.watch(self._outbox)
        tasks = [asyncio.create_task(work) for work in (self._read(), self._write(), self._drive())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done() and not isinstance(task.exception(), (WebSocketDisconnect, type(None))):
                    log.error("a conversation broke off", exc_info=task.exception())
        finally:
            self._crowd.unwatch(self._outbox)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with suppress(RuntimeError, WebSocketDisconnect):  # it is gone already, as a rule
                await self._socket.close(self._closing or 1000)
            await self._stand_still()

    # -- three tasks

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        allowance = _Allowance(MESSAGES_A_SECOND, MESSAGES_AT_ONCE, loop.time())
        self._chatter = _Allowance(CHATS_A_SECOND, CHATS_AT_ONCE, loop.time())
        while True:
            text = await self._socket.receive_text()
            if len(text) > LONGEST_MESSAGE:
                self._closing = TOO_LONG
                return
            if not allowance.takes(loop.time()):
                self._closing = TOO_FAST
                return
            try:
                message = json.loads(text)
                answer = self._answers[message["t"]]
            except (ValueError, KeyError, TypeError, RecursionError):
                self._tell(t="no", why="message", text="The arena did not understand that.")
                continue
            try:
                await answer(message)
            except Refused as refused:
                self._tell(t="no", why=refused.why, text=str(refused))
            except ArenaError as error:
                self._tell(t="no", why="rules", text=f"{error}.")
            except Exception as error:  # a part of the game may be away for a moment
                log.warning("%s of %s: %r", message["t"], self._seat, error)
                self._tell(
                    t="no", why="trouble", text="That part of the arena is away just now. Try again in a moment."
                )

    async def _write(self) -> None:
        while (text := await self._outbox.next()) is not None:
            await self._socket.send_text(text)
        self._closing = self._closing or TOO_SLOW

    async def _drive(self) -> None:
        """Tell the game where the player steers, what it found to the player, and now and then that it is still here."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S if self._seat is not None else None):
                    await self._stir.wait()
            self._stir.clear()
            try:
                async with self._turn:
                    if self._seat is not None:
                        await self._steered(self._seat)
            except Exception as error:
                log.warning("steering %s: %r", self._seat, error)
                self._stir.set()
                await asyncio.sleep(TROUBLE_PAUSE_S)
            await asyncio.sleep(STEER_PAUSE_S)

    async def _steered(self, seat: Seat) -> None:
        dx, dy = seat.wheel
        try:
            view = await self._crowd.thread(game.act, seat.name, Action.STEER, dx * SPEED, dy * SPEED)
        except NotEntered:  # the game began anew
            view = await self._crowd.thread(game.enter, seat.name, seat.world, seat.secret)
        self._show(view)

    # -- what a browser can say

    async def _enter(self, message: dict[str, Any]) -> None:
        name, secret, world = _name(message.get("name")), message.get("secret"), _world(message.get("world"))
        if not isinstance(secret, str) or not 8 <= len(secret) <= 100:
            raise Refused("message", "This page sent no secret of its own. Load it again.")
        async with self._turn:
            if self._seat is not None:
                raise Refused("message", "You are in the arena already.")
            try:
                view = await self._crowd.thread(game.enter, name, world, secret)
            except ArenaError as error:
                if getattr(error, "reason", "") in ("password", "taken"):
                    raise Refused("name", f"Somebody else plays as {name}. Choose another name.") from None
                raise
            await self._sit(Seat(name, secret, world, self._outbox, self._stir, self._replaced), view)

    async def _travel(self, message: dict[str, Any]) -> None:
        world = _world(message.get("world"))
        async with self._turn:
            seat = self._seated()
            if seat.world == world:
                return
            view = await self._crowd.thread(game.enter, seat.name, world, seat.secret)
            await self._sit(Seat(seat.name, seat.secret, world, self._outbox, self._stir, self._replaced), view)

    async def _sit(self, seat: Seat, view: View) -> None:
        opened = await self._crowd.thread(game.emptied, seat.name)
        try:
            said = await chat.recent(seat.world)
        except Exception as error:  # one can play without
            log.warning("what was said in %s: %r", seat.world, error)
            said = ()
        if self._closing is not None:
            return  # the player came in by another window meanwhile
        if self._seat is not None:
            self._crowd.remove(self._seat)
        self._seat = seat
        self._known = None
        self._outbox.drop_frame()
        at = [view.here.x, view.here.y]
        self._tell(t="in", you=seat.name, world=seat.world, opened=opened, lines=lines(said), at=at)
        self._show(view)
        self._crowd.add(seat)
        self._stir.set()

    async def _steer(self, message: dict[str, Any]) -> None:
        seat = self._seated()
        dx, dy = message.get("dx"), message.get("dy")
        if not (_is_number(dx) and _is_number(dy)):
            raise Refused("message", "The arena did not understand where you steer.")
        length = max(1.0, math.hypot(dx, dy))
        seat.wheel = (dx / length, dy / length)
        self._stir.set()

    async def _say(self, message: dict[str, Any]) -> None:
        seat, text = self._seated(), message.get("text")
        if not isinstance(text, str) or not 0 < len(text.strip()) <= chat.LONGEST_TEXT:
            raise Refused("chat", f"A message has 1 to {chat.LONGEST_TEXT} characters.")
        if not self._chatter.takes(asyncio.get_running_loop().time()):
            raise Refused("chat", "Not so fast: wait a moment before you speak again.")
        await game.say(seat.name, text)

    async def _buy(self, message: dict[str, Any]) -> None:
        item = message.get("item")
        if not isinstance(item, str) or item not in PRICES:
            raise Refused("message", "The shop does not have that.")
        async with self._turn:
            self._show(await self._crowd.thread(game.act, self._seated().name, Action.BUY, item, 1))

    async def _leave(self, message: dict[str, Any]) -> None:
        async with self._turn:
            seat = self._seated()
            self._seat = None
            self._crowd.remove(seat)
            score = await self._crowd.thread(game.leave, seat.name)
            self._outbox.drop_frame()
            self._tell(t="out", score=score)

    async def _ping(self, message: dict[str, Any]) -> None:
        self._tell(t="pong", at=message.get("at") if _is_number(message.get("at")) else 0)

    # -- what it is told

    def _tell(self, **message: Any) -> None:
        self._outbox.line(encode(message))

    def _show(self, view: View) -> None:
        if view.found or self._known != (view.score, view.items):
            self._known = (view.score, dict(view.items))
            found = [[chest.name, chest.item, chest.count] for chest in view.found]
            self._tell(t="you", score=view.score, items=view.items, found=found)

    # -- the end

    def _replaced(self) -> None:
        self._seat = None
        self._closing = REPLACED
        self._outbox.overflowed = True
        self._outbox.line("")  # wakes the writer, which ends the conversation

    async def _stand_still(self) -> None:
        """One whose connection broke may be back soon: its body stays for a moment, and so does its score."""
        seat, self._seat = self._seat, None
        if seat is not None and self._crowd.remove(seat):
            with suppress(Exception):
                await self._crowd.thread(game.act, seat.name, Action.STEER, 0.0, 0.0)

    def _seated(self) -> Seat:
        if self._seat is None:
            raise Refused("enter", "Enter the arena first.")
        return self._seat


class _Allowance:
    """So many a second, and so many at once."""

    def __init__(self, a_second: float, at_once: float, now: float) -> None:
        self._a_second, self._at_once = a_second, at_once
        self._left, self._at = at_once, now

    def takes(self, now: float) -> bool:
        self._left = min(self._at_once, self._left + (now - self._at) * self._a_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


def _name(given: object) -> str:
    name = " ".join(given.split()) if isinstance(given, str) else ""
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise Refused("name", f"A name has 1 to {LONGEST_NAME} characters.")
    return name


def _world(given: object) -> str:
    if not isinstance(given, str) or given not in WORLDS:
        raise Refused("message", "There is no such world.")
    return given


def _is_number(given: object) -> TypeGuard[float]:
    return isinstance(given, (int, float)) and not isinstance(given, bool) and math.isfinite(given)


def _ground(world: str) -> dict[str, Any]:
    ground = world_map(world)
    return {"world": world, "rows": ground.rows, "chests": [_chest(chest) for chest in ground.chests]}


def _chest(chest: Chest) -> list[Any]:
    return [chest.name, chest.x, chest.y, chest.item, chest.count]
