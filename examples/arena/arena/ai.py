"""Finding the way: A* over the free cells of a map."""

from __future__ import annotations

from heapq import heappop, heappush

from arena.models import Cell, WorldMap


def route(world_map: WorldMap, start: Cell, goal: Cell) -> tuple[Cell, ...]:
    """The cells from ``start`` (left out) to ``goal`` (included) on a shortest way; empty if there is none."""
    if start == goal or not world_map.is_free(goal):
        return ()
    came_from: dict[Cell, Cell] = {}
    steps = {start: 0}
    frontier: list[tuple[int, Cell]] = [(_distance(start, goal), start)]
    while frontier:
        _, cell = heappop(frontier)
        if cell == goal:
            return _backwards(came_from, start, goal)
        column, row = cell
        further = steps[cell] + 1
        for neighbour in ((column + 1, row), (column, row + 1), (column - 1, row), (column, row - 1)):
            if world_map.is_free(neighbour) and further < steps.get(neighbour, further + 1):
                steps[neighbour] = further
                came_from[neighbour] = cell
                heappush(frontier, (further + _distance(neighbour, goal), neighbour))
    return ()


def _distance(one: Cell, other: Cell) -> int:
    return abs(one[0] - other[0]) + abs(one[1] - other[1])


def _backwards(came_from: dict[Cell, Cell], start: Cell, goal: Cell) -> tuple[Cell, ...]:
    way = [goal]
    while came_from[way[-1]] != start:
        way.append(came_from[way[-1]])
    return tuple(reversed(way))
