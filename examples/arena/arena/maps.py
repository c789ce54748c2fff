"""The ground of each world, drawn from its name: the same name is the same map everywhere."""

from __future__ import annotations

import random
from functools import lru_cache

from arena.models import Cell, Chest, WorldMap

SIZE = 20  # cells in each direction
WALL_SHARE = 0.14
CHESTS = 6

_LOOT = (("apple", 5), ("rope", 2), ("sword", 1))


@lru_cache(maxsize=128)
def world_map(world: str) -> WorldMap:
    """The map of the world: a wall around it, some walls inside; every free cell can be reached from every other."""
    chance = random.Random(f"arena map {world}")
    walls = {(column, row) for column in range(SIZE) for row in range(SIZE) if _on_rim((column, row))}
    walls |= {cell for cell in _inside() if chance.random() < WALL_SHARE}
    open_cells = _largest_room(walls)
    rows = tuple("".join("." if (column, row) in open_cells else "#" for column in range(SIZE)) for row in range(SIZE))
    chests = tuple(
        Chest(f"chest-{number}", column + 0.5, row + 0.5, *_LOOT[number % len(_LOOT)])
        for number, (column, row) in enumerate(chance.sample(sorted(open_cells), CHESTS))
    )
    return WorldMap(world, rows, chests)


def gate(world: str, player: str) -> Cell:
    """The free cell where the player comes in."""
    ground = world_map(world)
    free = [cell for cell in _inside() if ground.is_free(cell)]
    return random.Random(f"arena gate {world} {player}").choice(free)


def _inside() -> list[Cell]:
    return [(column, row) for row in range(1, SIZE - 1) for column in range(1, SIZE - 1)]


def _on_rim(cell: Cell) -> bool:
    return not (0 < cell[0] < SIZE - 1 and 0 < cell[1] < SIZE - 1)


def _largest_room(walls: set[Cell]) -> set[Cell]:
    unseen = set(_inside()) - walls
    largest: set[Cell] = set()
    while unseen:
        room: set[Cell] = set()
        edge = [min(unseen)]
        while edge:
            cell = edge.pop()
            if cell in unseen:
                unseen.remove(cell)
                room.add(cell)
                column, row = cell
                edge += [(column + 1, row), (column - 1, row), (column, row + 1), (column, row - 1)]
        largest = max(largest, room, key=len)
    return largest
