"""Coarser graphs whose vertices are clusters of heavily connected ones, and search from the coarsest to the finest.

Clusters lie within one part of a given division and hold no pair that must be apart, so that the division carries over
to every level, where whole clusters are moved. After Sanders and Schulz, "Engineering Multilevel Graph Partitioning
Algorithms" (2011), section 6: iterated cycles that keep the best division found.
"""

from __future__ import annotations

from random import Random

from shardwright.sharding.partition._search import Search
from shardwright.sharding.partition._task import Contracted

_STEPS = 120  # of annealing, for each vertex of the coarsest graph
_LEAST_VERTICES = 8  # for each part, in the coarsest graph
_LARGEST = 5  # a cluster takes at most this share of a cap: one fifth


def cycle(
    graph: Contracted,
    parts: int,
    caps: tuple[int, ...],
    assignment: list[int],
    chance: Random,
    heat: float,
    *,
    keep: bool,
) -> Search | None:
    """One cycle down and up again; None where the division could not be made to keep caps and constraints.

    With ``keep`` clusters lie within the parts of the division, else they are made anew and get the part of most of them.
    """
    levels: list[tuple[Contracted, list[int]]] = []
    fine, division = graph, assignment
    while len(fine.weights) > _LEAST_VERTICES * parts:
        coarse, home = _coarser(fine, division if keep else [0] * len(division), caps, chance)
        if len(coarse.weights) > 0.9 * len(fine.weights):
            break
        levels.append((fine, home))
        smaller = [0] * len(coarse.weights)
        for vertex, cluster in enumerate(home):
            smaller[cluster] = division[vertex]
        fine, division = coarse, smaller
    search = Search(fine, parts, caps, division)
    if heat:
        search.anneal(chance, _STEPS * len(fine.weights), heat)
    whole = search.repair(60)
    if whole:
        search.improve(8)
    for finer, home in reversed(levels):
        search = Search(finer, parts, caps, [search.part[cluster] for cluster in home])
        whole = whole or search.repair(200)
        if whole:
            search.improve(8)
    return search if whole or search.repair() else None


def _coarser(graph: Contracted, part: list[int], caps: tuple[int, ...], chance: Random) -> tuple[Contracted, list[int]]:
    size = len(graph.weights)
    cluster = list(range(size))
    held = [list(weight) for weight in graph.weights]
    members: list[list[int]] = [[vertex] for vertex in range(size)]
    largest = [max(1, cap // _LARGEST) for cap in caps]
    order = list(range(size))
    chance.shuffle(order)
    for vertex in order:
        if len(members[cluster[vertex]]) > 1 or cluster[vertex] != vertex:
            continue
        towards: dict[int, int] = {}
        for other, weight in graph.neighbours[vertex].items():
            if part[other] == part[vertex] and cluster[other] != vertex:
                towards[cluster[other]] = towards.get(cluster[other], 0) + weight
        best, rating = -1, 0.0
        for target, weight in towards.items():
            rate = weight / (1 + sum(held[target]))
            if rate > rating and all(
                mine + theirs <= most for mine, theirs, most in zip(held[vertex], held[target], largest, strict=True)
            ):
                inside = members[target]
                if not any(other in inside for other in graph.apart[vertex]):
                    best, rating = target, rate
        if best >= 0:
            cluster[vertex] = best
            members[best].append(vertex)
            members[vertex] = []
            for place, weight in enumerate(graph.weights[vertex]):
                held[best][place] += weight
    return _joined(graph, cluster)


def _joined(graph: Contracted, cluster: list[int]) -> tuple[Contracted, list[int]]:
    number: dict[int, int] = {}
    home = [number.setdefault(target, len(number)) for target in cluster]
    weights = [[0] * len(graph.weights[0]) for _ in number]
    neighbours: list[dict[int, int]] = [{} for _ in number]
    apart: list[list[int]] = [[] for _ in number]
    for vertex, target in enumerate(home):
        for place, weight in enumerate(graph.weights[vertex]):
            weights[target][place] += weight
        row = neighbours[target]
        for other, weight in graph.neighbours[vertex].items():
            if home[other] != target:
                row[home[other]] = row.get(home[other], 0) + weight
        for other in graph.apart[vertex]:
            if home[other] not in apart[target]:
                apart[target].append(home[other])
    return Contracted(home, weights, neighbours, apart), home
