"""The values and errors that the parts of the arena share."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

Cell = tuple[int, int]  # column, row


class Action(StrEnum):
    """What a player can do; the details that follow it in ``game.act`` are listed beside it."""

    MOVE = "move"  # dx, dy: a push; the player slides for a moment and stops
    STEER = "steer"  # dx, dy: the speed to keep, in a world whose time passes by itself (physics.advance)
    WALK = "walk"  # column, row: one step on the shortest way there
    BUY = "buy"  # item, count: at the price of PRICES, paid from the score
    GIVE = "give"  # other player, item, count


PRICES = {"apple": 1, "rope": 3, "sword": 10}


class ArenaError(Exception):
    """Something that the rules do not allow."""


class OutOfStock(ArenaError):
    """More was asked for than there is. ``left`` says how many there are."""

    def __init__(self, item: str, wanted: int, left: int) -> None:
        super().__init__(item, wanted, left)
        self.item = item
        self.wanted = wanted
        self.left = left

    def __str__(self) -> str:
        return f"{self.wanted} x {self.item} wanted, {self.left} left"


class NotEntered(ArenaError):
    """The player has to enter a world first."""


class NotInWorld(ArenaError):
    """The world does not know the player: it never came in, or the world began anew."""


class TooPoor(ArenaError):
    """The score does not pay for it."""


@dataclass(frozen=True, slots=True)
class Player:
    """An authenticated player. ``number`` counts registrations from 1."""

    name: str
    number: int


@dataclass(frozen=True, slots=True)
class Body:
    """Where a player is, in cells from the upper left corner, and how fast, in cells per second."""

    player: str
    x: float
    y: float
    vx: float = 0.0
    vy: float = 0.0

    @property
    def cell(self) -> Cell:
        return int(self.x), int(self.y)


@dataclass(frozen=True, slots=True)
class Chest:
    """Something to find. Each player can empty each chest once."""

    name: str
    x: float
    y: float
    item: str
    count: int


@dataclass(frozen=True, slots=True)
class WorldMap:
    """The ground of a world: rows of ``.`` (free) and ``#`` (wall), and its chests."""

    world: str
    rows: tuple[str, ...]
    chests: tuple[Chest, ...]

    @property
    def width(self) -> int:
        return len(self.rows[0])

    @property
    def height(self) -> int:
        return len(self.rows)

    def is_free(self, cell: Cell) -> bool:
        column, row = cell
        return 0 <= row < self.height and 0 <= column < self.width and self.rows[row][column] == "."


@dataclass(frozen=True, slots=True)
class Moved:
    """The effect of a push: where the player came to rest, and the chests emptied on the way."""

    body: Body
    found: tuple[Chest, ...] = ()


@dataclass(frozen=True, slots=True)
class Frame:
    """A world at one moment: who found something and was not yet told (a steered player's next ``steer`` says what)."""

    ticks: int
    bodies: tuple[Body, ...]
    finders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """What a player sees."""

    player: Player
    world: str
    here: Body
    score: int
    items: dict[str, int] = field(default_factory=dict)
    others: tuple[Body, ...] = ()
    found: tuple[Chest, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """One line of chat; ``number`` counts the messages of a world from 1."""

    number: int
    player: str
    text: str
