"""Bodies that push and slide: one pymunk space per world.

Every function names the world first; worlds know nothing of each other. A world begins when someone first asks for it.
"""

from __future__ import annotations

import threading
import time

import pymunk

from arena import inventory
from arena.maps import gate, world_map
from arena.models import Body, Chest, Frame, Moved, NotInWorld

TICK_S = 0.1
STEPS_PER_TICK = 4  # small steps, or fast bodies pass through walls
RADIUS = 0.35
STRONGEST_PUSH = 8.0  # cells per second
DAMPING = 0.05  # share of the speed that is left after a second: players stop soon
BRAKE = 0.5  # share of the speed that one who lets go of the wheel keeps from frame to frame
LIVE_S = 1.0  # after so long without a frame, time passes by pushes again
ABSENT_S = 6.0  # a steered player who is not heard of for so long has gone


class World:
    """One world's space: walls from its map, and a disc for each player. Safe to use from several threads."""

    def __init__(self, world: str) -> None:
        self.world = world
        self.ground = world_map(world)
        self.ticks = 0
        self._lock = threading.Lock()
        self._bodies: dict[str, pymunk.Body] = {}
        self._wheels: dict[str, tuple[float, float, float]] = {}  # player: wanted speed, and when it was last heard of
        self._live_until_s = 0.0
        self._space = pymunk.Space()
        self._space.damping = DAMPING
        for row, cells in enumerate(self.ground.rows):
            for column, cell in enumerate(cells):
                if cell == "#":
                    corners = [(column, row), (column + 1, row), (column + 1, row + 1), (column, row + 1)]
                    wall = pymunk.Poly(self._space.static_body, corners)
                    wall.elasticity = 0.4
                    self._space.add(wall)

    def __repr__(self) -> str:
        return f"World({self.world!r}, players={len(self._bodies)}, ticks={self.ticks})"

    def spawn(self, player: str, x: float, y: float) -> Body:
        """Put the player there; one who is in the world already stays where it is."""
        with self._lock:
            if player not in self._bodies:
                body = pymunk.Body(mass=1.0, moment=float("inf"))
                body.position = (x, y)
                disc = pymunk.Circle(body, RADIUS)
                disc.elasticity = 0.6
                self._space.add(body, disc)
                self._bodies[player] = body
            return self._describe(player)

    def remove(self, player: str) -> None:
        """Take the player out, if it is there."""
        with self._lock:
            self._remove(player)

    def push(self, player: str, dx: float, dy: float) -> Body:
        """Give the player a speed, in cells per second, and let a tick pass. Raises NotInWorld.

        In a world that is live (see ``advance``) time passes by itself, and not faster for a push.
        """
        with self._lock:
            self._body(player).velocity = (_clamp(dx), _clamp(dy))
            if time.monotonic() >= self._live_until_s:
                self._advance(TICK_S)
            return self._describe(player)

    def steer(self, player: str, dx: float, dy: float) -> Body:
        """The speed that the player keeps from now on, in cells per second, while frames pass. Raises NotInWorld."""
        with self._lock:
            self._body(player)
            self._wheels[player] = (_clamp(dx), _clamp(dy), time.monotonic())
            return self._describe(player)

    def advance(self, dt: float) -> tuple[int, tuple[Body, ...], tuple[str, ...]]:
        """Let a frame pass; the world is live from then on, until frames stop coming.

        Answers the ticks seen, everybody's body, and who is steered. Who was not heard of for ABSENT_S is taken out.
        """
        now_s = time.monotonic()
        with self._lock:
            self._live_until_s = now_s + LIVE_S
            for player, (dx, dy, heard_s) in list(self._wheels.items()):
                body = self._bodies[player]
                if now_s - heard_s > ABSENT_S:
                    self._remove(player)
                elif dx or dy:
                    body.velocity = (dx, dy)
                else:
                    body.velocity = (body.velocity.x * BRAKE, body.velocity.y * BRAKE)
            self._advance(dt)
            bodies = tuple(self._describe(player) for player in sorted(self._bodies))
            return self.ticks, bodies, tuple(sorted(self._wheels))

    def step(self, dt: float = TICK_S) -> int:
        """Let time pass; answers how many ticks this world has seen."""
        with self._lock:
            self._advance(dt)
            return self.ticks

    def position(self, player: str) -> Body:
        """Where the player is. Raises NotInWorld."""
        with self._lock:
            return self._describe(player)

    def positions(self) -> dict[str, tuple[float, float]]:
        """Where everybody is, by name."""
        with self._lock:
            return {name: (round(body.position.x, 4), round(body.position.y, 4)) for name, body in self._bodies.items()}

    def snapshot(self) -> tuple[Body, ...]:
        """Everybody's body, in the order of their names."""
        with self._lock:
            return tuple(self._describe(player) for player in sorted(self._bodies))

    def _remove(self, player: str) -> None:
        self._wheels.pop(player, None)
        body = self._bodies.pop(player, None)
        if body is not None:
            self._space.remove(body, *body.shapes)

    def _advance(self, dt: float) -> None:
        for _ in range(STEPS_PER_TICK):
            self._space.step(dt / STEPS_PER_TICK)
        self.ticks += 1

    def _body(self, player: str) -> pymunk.Body:
        try:
            return self._bodies[player]
        except KeyError:
            raise NotInWorld(f"{player} is not in {self.world}") from None

    def _describe(self, player: str) -> Body:
        body = self._body(player)
        (x, y), (vx, vy) = body.position, body.velocity
        return Body(player, round(x, 4), round(y, 4), round(vx, 4), round(vy, 4))


_worlds: dict[str, World] = {}
_opened: set[tuple[str, str, str]] = set()  # world, player, chest: spares inventory the question
_found: dict[tuple[str, str], list[Chest]] = {}  # world, player: what a steered player found and was not yet told of


def join(world: str, player: str) -> Body:
    """Let the player in, at its gate; one who is in already stays where it is."""
    column, row = gate(world, player)
    return _world(world).spawn(player, column + 0.5, row + 0.5)


def leave(world: str, player: str) -> None:
    """Take the player out of the world; nothing happens to one who is not in it."""
    _world(world).remove(player)


def move(world: str, player: str, dx: float, dy: float) -> Moved:
    """Push the player and let a tick pass; a chest within reach is opened. Raises NotInWorld."""
    body = _world(world).push(player, dx, dy)
    return Moved(body, tuple(_open_chests(world, body)))


def steer(world: str, player: str, dx: float, dy: float) -> Moved:
    """Let the player keep that speed while frames pass; answers what it found since last time. Raises NotInWorld."""
    body = _world(world).steer(player, dx, dy)
    return Moved(body, tuple(_found.pop((world, player), ())))


def advance(world: str, dt: float) -> Frame:
    """Let a frame of a world in real time pass; a chest within a steered player's reach is opened."""
    ticks, bodies, steered = _world(world).advance(dt)
    for body in bodies:
        if body.player in steered:
            found = _open_chests(world, body)
            if found:
                _found.setdefault((world, body.player), []).extend(found)
    waiting = tuple(player for player in steered if (world, player) in _found)
    return Frame(ticks, bodies, waiting)


def position(world: str, player: str) -> Body:
    """Where the player is. Raises NotInWorld."""
    return _world(world).position(player)


def step(world: str, dt: float = TICK_S) -> int:
    """Let time pass in the world; answers how many ticks it has seen."""
    return _world(world).step(dt)


def snapshot(world: str) -> tuple[Body, ...]:
    """Everybody in the world, in the order of their names."""
    return _world(world).snapshot()


def _world(world: str) -> World:
    # setdefault, not a test and a store: two threads that come at once get the same world
    return _worlds.get(world) or _worlds.setdefault(world, World(world))


def _open_chests(world: str, body: Body) -> list[Chest]:
    found = []
    for chest in world_map(world).chests:
        key = (world, body.player, chest.name)
        if _close(body, chest) and key not in _opened:
            if inventory.collect(world, body.player, chest):
                found.append(chest)
            _opened.add(key)
    return found


def _close(body: Body, chest: Chest) -> bool:
    return (body.x - chest.x) ** 2 + (body.y - chest.y) ** 2 <= 1.0


def _clamp(speed: float) -> float:
    return max(-STRONGEST_PUSH, min(STRONGEST_PUSH, speed))
