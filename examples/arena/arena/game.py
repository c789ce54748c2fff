"""What players call. It keeps each player's seat: token, world, last place, score.

The parts behind it forget when they are restarted (accounts, bodies): a seat then logs in or joins again by itself, so
that a player notices no more than a jump back to the gate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from arena import ai, auth, chat, inventory, physics, render
from arena.maps import world_map
from arena.models import PRICES, Action, Body, Message, Moved, NotEntered, NotInWorld, Player, TooPoor, View

CHEST_SCORE = 5
FIRST_SCORE = 20
STRIDE = 6.0  # cells per second that a step of a walk pushes with


@dataclass(slots=True)
class Seat:
    """One player's side of the game."""

    name: str
    password: str
    world: str
    token: str
    score: int = FIRST_SCORE
    heard: int = 0  # number of the last message seen


_seats: dict[str, Seat] = {}


def enter(name: str, world: str, password: str = "guest") -> View:
    """Come into a world; a new name gets an account. Raises AuthError if the name is somebody else's."""
    seat = _seats.get(name)
    token = _login(name, password)
    if seat is None:
        seat = _seats[name] = Seat(name, password, world, token)
    elif seat.world != world:
        physics.leave(seat.world, name)
        seat.world, seat.heard = world, 0
    seat.password, seat.token = password, token
    physics.join(world, name)
    return look(name)


def act(player: str, action: Action | str, *details: float | int | str) -> View:
    """Do something; ``details`` are what Action says. Answers what the player sees then, without the others.

    Raises NotEntered, OutOfStock, TooPoor, and ValueError for an unknown action or details that do not fit it.
    """
    seat, identity = _seat(player)
    moved: Moved | None = None
    match Action(action), details:
        case Action.MOVE, (int() | float() as dx, int() | float() as dy):
            moved = _push(seat, dx, dy)
        case Action.STEER, (int() | float() as dx, int() | float() as dy):
            moved = _steer(seat, dx, dy)
        case Action.WALK, (int() as column, int() as row):
            moved = _walk(seat, (column, row))
        case Action.BUY, (str() as item, int() as count):
            _buy(seat, item, count)
        case Action.GIVE, (str() as other, str() as item, int() as count):
            inventory.transfer(player, other, item, count)
        case wish, _:
            raise ValueError(f"{wish.value}: cannot do that with {details!r}")
    here = moved.body if moved else _here(seat)
    found = moved.found if moved else ()
    seat.score += CHEST_SCORE * len(found)
    return View(identity, seat.world, here, seat.score, inventory.list_items(player), (), found)


def look(player: str) -> View:
    """What the player sees: itself, what it owns, and everybody else in the world. Raises NotEntered."""
    seat, identity = _seat(player)
    here = _here(seat)
    others = tuple(body for body in physics.snapshot(seat.world) if body.player != player)
    return View(identity, seat.world, here, seat.score, inventory.list_items(player), others)


def emptied(player: str) -> tuple[str, ...]:
    """The chests of the player's world that it has emptied, by name. Raises NotEntered."""
    seat, _ = _seat(player)
    return inventory.emptied(seat.world, player)


def minimap(player: str) -> bytes:
    """A PNG of the player's world, the player ringed. Raises NotEntered."""
    seat, _ = _seat(player)
    return render.minimap(world_map(seat.world), physics.snapshot(seat.world), focus=player)


async def say(player: str, text: str) -> Message:
    """Speak to everybody in the world. Raises NotEntered, and ValueError for an empty or overlong text."""
    seat, identity = _seat(player)
    return await chat.post(seat.world, identity.name, text)


async def listen(player: str) -> tuple[Message, ...]:
    """What was said in the world since the player last listened. Raises NotEntered."""
    seat, _ = _seat(player)
    messages = await chat.recent(seat.world, seat.heard)
    if messages:
        seat.heard = messages[-1].number
    return messages


def leave(player: str) -> int:
    """Go; answers the score. Raises NotEntered."""
    seat, _ = _seat(player)
    physics.leave(seat.world, player)
    del _seats[player]
    return seat.score


def _seat(player: str) -> tuple[Seat, Player]:
    seat = _seats.get(player)
    if seat is None:
        raise NotEntered(player)
    try:
        return seat, auth.verify(seat.token)
    except auth.AuthError:  # the accounts began anew, or the token is out of date
        seat.token = _login(player, seat.password)
        return seat, auth.verify(seat.token)


def _login(name: str, password: str) -> str:
    try:
        return auth.login(name, password)
    except auth.AuthError as error:
        if error.reason != "unknown":
            raise
    auth.register(name, password)
    return auth.login(name, password)


def _here(seat: Seat) -> Body:
    try:
        return physics.position(seat.world, seat.name)
    except NotInWorld:
        return physics.join(seat.world, seat.name)


def _push(seat: Seat, dx: float, dy: float) -> Moved:
    try:
        return physics.move(seat.world, seat.name, dx, dy)
    except NotInWorld:
        physics.join(seat.world, seat.name)
        return physics.move(seat.world, seat.name, dx, dy)


def _steer(seat: Seat, dx: float, dy: float) -> Moved:
    try:
        return physics.steer(seat.world, seat.name, dx, dy)
    except NotInWorld:
        physics.join(seat.world, seat.name)
        return physics.steer(seat.world, seat.name, dx, dy)


def _walk(seat: Seat, goal: tuple[int, int]) -> Moved:
    here = _here(seat)
    way = ai.route(world_map(seat.world), here.cell, goal)
    if not way:
        return Moved(replace(here, vx=0.0, vy=0.0))
    column, row = way[0]
    dx, dy = column + 0.5 - here.x, row + 0.5 - here.y
    length = max(abs(dx), abs(dy), 1e-9)
    return _push(seat, dx / length * STRIDE, dy / length * STRIDE)


def _buy(seat: Seat, item: str, count: int) -> None:
    price = PRICES.get(item, 0) * count
    if price > seat.score:
        raise TooPoor(f"{count} x {item} costs {price}, the score is {seat.score}")
    inventory.reserve(seat.token, item, count)
    seat.score -= price
