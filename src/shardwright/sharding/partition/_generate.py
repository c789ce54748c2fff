"""Random graphs that look like programs, by seed: for tests and for comparing partitioners."""

from __future__ import annotations

import random

from shardwright.sharding.partition._task import PartitionTask


def generate(
    seed: int, *, vertices: int = 500, parts: int = 8, cpu_cap: float = 1.10, memory_cap: float = 1.25,
    together: int = 30, apart: int = 20, hard: bool = False,
) -> PartitionTask:  # fmt: skip
    """Modules of functions that call mostly each other, a few hubs that all call, weights spread over orders of size.

    Capacities are CPU and memory, capped at multiples of the average of a part. Pairs that stay together are drawn among
    the edges within modules, as often as they are called: in programs it is the users of one global and the methods of one
    class that must. Pairs apart are drawn among vertices of different modules. With ``hard``, both are drawn evenly from
    all edges and all pairs: then the constraints themselves cost a good part of the cut.
    """
    chance = random.Random(seed)
    modules = parts * chance.randint(3, 6)
    module = [chance.randrange(modules) for _ in range(vertices)]
    members: list[list[int]] = [[] for _ in range(modules)]
    for vertex, home in enumerate(module):
        members[home].append(vertex)
    weights = tuple(
        (min(int(chance.lognormvariate(3.0, 0.8)) + 1, 120), min(int(chance.lognormvariate(3.0, 0.6)) + 1, 120))
        for _ in range(vertices)
    )
    edges: dict[tuple[int, int], int] = {}

    def connect(u: int, v: int, weight: int) -> None:
        if u != v:
            key = (min(u, v), max(u, v))
            edges[key] = edges.get(key, 0) + weight

    hubs = [chance.randrange(vertices) for _ in range(max(2, vertices // 60))]
    for vertex in range(vertices):
        for _ in range(chance.randint(2, 5)):
            near = members[module[vertex]]
            if len(near) > 1 and chance.random() < 0.85:
                connect(vertex, chance.choice(near), int(chance.lognormvariate(4.0, 1.2)) + 1)
            else:
                connect(vertex, chance.randrange(vertices), int(chance.lognormvariate(2.0, 1.0)) + 1)
        if chance.random() < 0.15:
            connect(vertex, chance.choice(hubs), int(chance.lognormvariate(2.0, 1.0)) + 1)
    flat = tuple((u, v, weight) for (u, v), weight in sorted(edges.items()))
    cpu, memory = (sum(weight[place] for weight in weights) / parts for place in (0, 1))
    pairs: list[tuple[int, int]] = []
    wanted: set[tuple[int, int]] = set()
    groups = _Groups(vertices)
    inner = [edge for edge in flat if module[edge[0]] == module[edge[1]]]
    heavy = [weight for *_, weight in inner]
    while len(pairs) < together:
        u, v, _ = chance.choice(flat) if hard else chance.choices(inner, heavy)[0]
        if (u, v) not in wanted:
            wanted.add((u, v))
            pairs.append((u, v))
            groups.join(u, v)
    separate: list[tuple[int, int]] = []
    while len(separate) < apart:
        u, v = chance.sample(range(vertices), 2)
        if groups.find(u) != groups.find(v) and (hard or module[u] != module[v]):
            separate.append((u, v))
    return PartitionTask(
        weights, flat, parts, (int(cpu * cpu_cap), int(memory * memory_cap)), tuple(pairs), tuple(separate)
    )


class _Groups:
    def __init__(self, size: int) -> None:
        self._leader = list(range(size))

    def find(self, vertex: int) -> int:
        while self._leader[vertex] != vertex:
            vertex = self._leader[vertex]
        return vertex

    def join(self, first: int, second: int) -> None:
        self._leader[self.find(second)] = self.find(first)
