"""The question and the answer of partitioning."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, field

from shardwright.errors import PlanError


class PartitionTask(Struct, frozen=True):
    """A graph of ``len(weights)`` vertices, numbered from 0, to be divided into ``parts`` parts.

    ``weights[v]`` are what vertex ``v`` takes of each capacity, whole numbers; ``caps`` the most that one part may hold of
    each. ``edges`` are ``(u, v, weight)``, undirected, weights positive; repeated edges add up. ``together``: sets of
    vertices for one part; ``apart``: pairs for different parts. Parts may remain empty.
    """

    weights: tuple[tuple[int, ...], ...]
    edges: tuple[tuple[int, int, int], ...]
    parts: int
    caps: tuple[int, ...]
    together: tuple[tuple[int, ...], ...] = ()
    apart: tuple[tuple[int, int], ...] = ()

    def cut(self, parts: Sequence[int]) -> int:
        """The weight of edges between different parts."""
        return sum(weight for u, v, weight in self.edges if parts[u] != parts[v])

    def loads(self, parts: Sequence[int]) -> list[list[int]]:
        """What each part holds of each capacity."""
        loads = [[0] * len(self.caps) for _ in range(self.parts)]
        for vertex, part in enumerate(parts):
            for place, weight in enumerate(self.weights[vertex]):
                loads[part][place] += weight
        return loads

    def broken(self, parts: Sequence[int]) -> list[str]:
        """Every cap and constraint that an assignment breaks, in words."""
        found = []
        for part, load in enumerate(self.loads(parts)):
            for place, (held, cap) in enumerate(zip(load, self.caps, strict=True)):
                if held > cap:
                    found.append(f"part {part} holds {held} of capacity {place}, which allows {cap}")
        found += [f"{group} is not together" for group in self.together if len({parts[vertex] for vertex in group}) > 1]
        found += [f"{u} and {v} are not apart" for u, v in self.apart if parts[u] == parts[v]]
        return found


class Partition(Struct, frozen=True):
    """``parts[v]`` is the part of vertex ``v``; ``cut`` the weight of the edges between parts."""

    parts: tuple[int, ...]
    cut: int


class Contracted(Struct):
    """The graph with every set that stays together as one vertex. ``home[v]`` is the vertex that ``v`` went into."""

    home: list[int]
    weights: list[list[int]]
    neighbours: list[dict[int, int]]
    apart: list[list[int]] = field(default_factory=list)


def contract(task: PartitionTask) -> Contracted:
    """Joins what must stay together. Raises PlanError where the task contradicts itself."""
    size = len(task.weights)
    leader = list(range(size))

    def find(vertex: int) -> int:
        while leader[vertex] != vertex:
            leader[vertex] = leader[leader[vertex]]
            vertex = leader[vertex]
        return vertex

    for group in task.together:
        for vertex in group[1:]:
            first, second = sorted((find(group[0]), find(vertex)))
            leader[second] = first
    number: dict[int, int] = {}
    home = [number.setdefault(find(vertex), len(number)) for vertex in range(size)]
    weights = [[0] * len(task.caps) for _ in number]
    for vertex in range(size):
        for place, weight in enumerate(task.weights[vertex]):
            weights[home[vertex]][place] += weight
    for vertex, held in enumerate(weights):
        if any(weight > cap for weight, cap in zip(held, task.caps, strict=True)):
            members = [item for item in range(size) if home[item] == vertex]
            raise PlanError(
                f"vertices {members[:8]} must stay together and take {held}, more than one part may hold {list(task.caps)}",
                code="SW292",
                remedy="allow more for one part, or fewer parts",
            )
    neighbours: list[dict[int, int]] = [{} for _ in weights]
    for u, v, weight in task.edges:
        first, second = home[u], home[v]
        if first != second:
            neighbours[first][second] = neighbours[first].get(second, 0) + weight
            neighbours[second][first] = neighbours[second].get(first, 0) + weight
    apart: list[list[int]] = [[] for _ in weights]
    for u, v in task.apart:
        first, second = home[u], home[v]
        if first == second:
            raise PlanError(
                f"vertices {u} and {v} must be apart, and must stay together by way of others",
                code="SW291",
                remedy="take back one of the two",
            )
        if second not in apart[first]:
            apart[first].append(second)
            apart[second].append(first)
    return Contracted(home, weights, neighbours, apart)
