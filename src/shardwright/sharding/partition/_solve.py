"""From a task to a partition: contract, divide roughly in several ways, repair, search."""

from __future__ import annotations

import importlib
from random import Random
from typing import Any

from shardwright.errors import PlanError
from shardwright.sharding.partition._levels import cycle
from shardwright.sharding.partition._search import Search
from shardwright.sharding.partition._task import Contracted, Partition, PartitionTask, contract

_FIRSTS = 2  # divisions without regard to pairs
_STARTS = 2  # ways to keep pairs apart that are tried
_ROUNDS = 2
_CYCLES = 4


def partition(task: PartitionTask, *, seed: int = 0, effort: float = 1.0) -> Partition:
    """An assignment that keeps every cap and constraint, with a small cut. The same task and seed give the same one.

    ``effort`` scales how long the search goes on. Raises PlanError: SW291 where constraints contradict each other, SW292
    where a set that stays together fits into no part, SW293 where no assignment was found that keeps the caps.
    """
    if task.parts < 1:
        raise PlanError("a graph is divided into at least one part", code="SW293", remedy="ask for a part")
    graph = contract(task)
    chance = Random(seed)
    found: list[Search] = []
    for start in _rough(graph, task, seed):
        search = Search(graph, task.parts, task.caps, start)
        if search.repair():
            search.improve()
            found.append(search)
        annealed = cycle(graph, task.parts, task.caps, start, chance, 0.05, keep=True)
        if annealed is not None:
            found.append(annealed)
    if not found:
        raise PlanError(
            f"no assignment of {len(task.weights)} vertices to {task.parts} parts was found that keeps the caps "
            f"{list(task.caps)}",
            code="SW293",
            remedy="allow more for one part, more parts, or fewer constraints",
        )
    best = min(found, key=lambda search: search.cut)
    for number in range(int(_CYCLES * effort)):
        again = number % 3 == 2
        turned = cycle(graph, task.parts, task.caps, best.part, chance, 0.5 if again else 0.05, keep=not again)
        if turned is not None and turned.cut <= best.cut:
            best = turned
    parts = _numbered([best.part[home] for home in graph.home])
    return Partition(parts, task.cut(parts))


def _numbered(parts: list[int]) -> tuple[int, ...]:
    """Parts numbered in the order of their first vertex, so that equal divisions look equal."""
    number: dict[int, int] = {}
    return tuple(number.setdefault(part, len(number)) for part in parts)


# -- rough divisions -----------------------------------------------------------------------------------------------


def _rough(graph: Contracted, task: PartitionTask, seed: int) -> list[list[int]]:
    """Several first divisions: by a multilevel partitioner where one is installed, and one by growing parts."""
    chance = Random(seed)
    starts = [_grown(graph, task)]
    if task.parts == 1 or len(graph.weights) <= task.parts:
        return starts
    multilevel = _multilevel()
    if multilevel is None:
        return [*starts, *(_grown(graph, task, chance) for _ in range(_STARTS))]
    firsts = [_by_levels(multilevel, graph, task, 2 * seed + number, {}) for number in range(_FIRSTS)]
    first = min(firsts, key=lambda division: Search(graph, task.parts, task.caps, division).cut)
    starts = [first]
    for _ in range(_STARTS):
        fixed: dict[int, int] = {}
        division = first
        for _ in range(_ROUNDS):  # pairs that met are fixed in parts of their own, and everything is divided anew
            if not _fix_apart(graph, task.parts, division, fixed, chance):
                break
            division = _by_levels(multilevel, graph, task, chance.randrange(2**16), fixed)
        if division is not first:
            starts.append(division)
    if len(starts) == 1:  # no pair met: the time is well spent on another one
        starts += [division for division in firsts if division is not first]
        starts.append(_by_levels(multilevel, graph, task, chance.randrange(2**16), {}))
    return starts


def _fix_apart(graph: Contracted, parts: int, division: list[int], fixed: dict[int, int], chance: Random) -> bool:
    """Fixes the two of every pair that met in different parts; False where none met."""
    met = False
    for vertex, pairs in enumerate(graph.apart):
        for other in pairs:
            if vertex < other and division[vertex] == division[other]:
                met = True
                stay, go = (vertex, other) if chance.random() < 0.5 else (other, vertex)
                if go in fixed:
                    stay, go = go, stay
                towards = [0.0] * parts
                for near, weight in graph.neighbours[go].items():
                    towards[division[near]] += weight
                banned = {fixed.get(item, division[item]) for item in graph.apart[go]} | {division[stay]}
                free = [part for part in range(parts) if part not in banned] or list(range(parts))
                fixed[stay] = fixed.get(stay, division[stay])
                fixed[go] = max(free, key=lambda part: (towards[part] + chance.random(), part))
    return met


def _multilevel() -> Any:
    """Mt-KaHyPar, on one thread. There are no wheels of it for every machine: without it, our own divisions have to do."""
    try:
        return importlib.import_module("mtkahypar")
    except ImportError:
        return None


def _combined(graph: Contracted, task: PartitionTask, which: int) -> list[int]:
    """One weight of each vertex, in thousandths of the caps: the first capacity, the sum, or the largest share."""
    shares = [
        [1000 * weight // max(1, cap) for weight, cap in zip(held, task.caps, strict=True)] for held in graph.weights
    ]
    if which == 0:
        return [1 + share[0] for share in shares]
    return [1 + (sum(share) if which == 1 else max(share)) for share in shares]


def _by_levels(library: Any, graph: Contracted, task: PartitionTask, seed: int, fixed: dict[int, int]) -> list[int]:
    """One run of the library. It hardly heeds its seed, but the order in which vertices are numbered."""
    size = len(graph.weights)
    place = list(range(size))
    Random(seed).shuffle(place)
    ends = [(u, v) for u, neighbours in enumerate(graph.neighbours) for v in neighbours if u < v]
    if not ends:
        return _grown(graph, task)
    combined, weights, held = _combined(graph, task, 0), [0] * size, [-1] * size
    for vertex, target in enumerate(place):
        weights[target], held[target] = combined[vertex], fixed.get(vertex, -1)
    imbalance = max(0.02, 0.98 * task.parts * 1000 / sum(weights) - 1)
    initializer = library.initialize(1, False)
    context = initializer.context_from_preset(library.PresetType.DETERMINISTIC)
    context.set_partitioning_parameters(task.parts, imbalance, library.Objective.CUT)
    context.logging = False
    library.set_seed(seed)
    made = initializer.create_graph(
        context,
        size,
        len(ends),
        [(place[u], place[v]) for u, v in ends],
        weights,
        [graph.neighbours[u][v] for u, v in ends],
    )
    if fixed:
        made.add_fixed_vertices(held, task.parts)
    found = made.partition(context).get_partition()
    return [found[target] for target in place]


def _grown(graph: Contracted, task: PartitionTask, chance: Random | None = None) -> list[int]:
    """Heaviest first, each to the part where most of its edges are and where it still fits; else to the emptiest."""
    shares = _combined(graph, task, 2)
    order = sorted(range(len(shares)), key=lambda vertex: (-shares[vertex], vertex))
    if chance is not None:
        chance.shuffle(order)
    part = [-1] * len(shares)
    load = [[0] * len(task.caps) for _ in range(task.parts)]
    for vertex in order:
        towards = [0] * task.parts
        for other, weight in graph.neighbours[vertex].items():
            if part[other] >= 0:
                towards[part[other]] += weight
        banned = {part[other] for other in graph.apart[vertex]}

        def rank(
            target: int, vertex: int = vertex, banned: set[int] = banned, towards: list[int] = towards
        ) -> tuple[bool, float, float]:
            after = [
                (held + weight) / max(1, cap)
                for held, weight, cap in zip(load[target], graph.weights[vertex], task.caps, strict=True)
            ]
            fits = max(after, default=0.0) <= 1 and target not in banned
            return not fits, -towards[target] if fits else 0.0, max(after, default=0.0)

        target = min(range(task.parts), key=rank)
        part[vertex] = target
        for place, weight in enumerate(graph.weights[vertex]):
            load[target][place] += weight
    return part
