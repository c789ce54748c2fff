"""Repair and local search over assignments: moves of vertices, under caps and with pairs that stay apart.

After Fiduccia and Mattheyses (1982), with several capacities, for any number of parts, and with caps that may be exceeded a
little on the way; what counts is the best assignment on the way that keeps them all.
"""

from __future__ import annotations

import heapq
import math
from random import Random

from shardwright.sharding.partition._task import Contracted

_LENIENCE = 0.12  # by how much a part may exceed its caps on the way
_PATIENCE = 45  # moves without a new best before a pass ends


class Search:
    """An assignment and what is needed to change it quickly."""

    def __init__(self, graph: Contracted, parts: int, caps: tuple[int, ...], assignment: list[int]) -> None:
        self.graph = graph
        self.parts = parts
        self.caps = caps
        self._lenient = tuple(int(cap * (1 + _LENIENCE)) for cap in caps)
        self.part = list(assignment)
        self.load = [[0] * len(caps) for _ in range(parts)]
        for vertex, part in enumerate(self.part):
            self._weigh(vertex, part, 1)
        self.towards = [[0] * parts for _ in self.part]  # weight of edges to each part
        self.cut = 0
        for vertex, neighbours in enumerate(graph.neighbours):
            row = self.towards[vertex]
            for other, weight in neighbours.items():
                row[self.part[other]] += weight
                self.cut += weight if self.part[other] != self.part[vertex] else 0
        self.cut //= 2

    def _weigh(self, vertex: int, part: int, sign: int) -> None:
        load = self.load[part]
        for place, weight in enumerate(self.graph.weights[vertex]):
            load[place] += sign * weight

    def move(self, vertex: int, target: int) -> None:
        source = self.part[vertex]
        self.cut += self.towards[vertex][source] - self.towards[vertex][target]
        self._weigh(vertex, source, -1)
        self._weigh(vertex, target, 1)
        self.part[vertex] = target
        towards = self.towards
        for other, weight in self.graph.neighbours[vertex].items():
            row = towards[other]
            row[source] -= weight
            row[target] += weight

    # -- what is broken ------------------------------------------------------------------------------------------

    def excess(self) -> float:
        """How far caps are exceeded, in caps, and 1 for each pair that should be apart; 0.0 for a good assignment."""
        over = sum(
            max(0, held - cap) / cap if cap else float(held > 0)
            for load in self.load
            for held, cap in zip(load, self.caps, strict=True)
        )
        met = sum(
            self.part[other] == self.part[vertex] for vertex, pairs in enumerate(self.graph.apart) for other in pairs
        )
        return over + met / 2

    def _change(self, vertex: int, target: int) -> float:
        """By how much a move changes the excess."""
        source = self.part[vertex]
        delta = 0.0
        for place, weight in enumerate(self.graph.weights[vertex]):
            cap = self.caps[place] or 1
            before, after = self.load[source][place], self.load[target][place]
            delta += max(0, before - weight - cap) / cap - max(0, before - cap) / cap
            delta += max(0, after + weight - cap) / cap - max(0, after - cap) / cap
        for other in self.graph.apart[vertex]:
            delta += (self.part[other] == target) - (self.part[other] == source)
        return delta

    def _fits(self, vertex: int, target: int, caps: tuple[int, ...]) -> bool:
        load = self.load[target]
        for place, weight in enumerate(self.graph.weights[vertex]):
            if load[place] + weight > caps[place]:
                return False
        part = self.part
        return all(part[other] != target for other in self.graph.apart[vertex])

    # -- repair --------------------------------------------------------------------------------------------------

    def repair(self, most: int = 400) -> bool:
        """Moves, and where none helps swaps, until nothing is broken; False where that is not reached."""
        for _ in range(most):
            if self.excess() <= 1e-12:
                return True
            found = self._best_move() or self._best_swap()
            if found is None:
                return False
            for vertex, target in found:
                self.move(vertex, target)
        return self.excess() <= 1e-12

    def _broken(self) -> list[int]:
        over = {
            part
            for part, load in enumerate(self.load)
            if any(held > cap for held, cap in zip(load, self.caps, strict=True))
        }
        return [
            vertex
            for vertex, part in enumerate(self.part)
            if part in over or any(self.part[other] == part for other in self.graph.apart[vertex])
        ]

    def _best_move(self) -> tuple[tuple[int, int], ...] | None:
        best: tuple[float, int, int] | None = None
        price = 1.0 / (1 + self.cut)
        for vertex in self._broken():
            source = self.part[vertex]
            row = self.towards[vertex]
            for target in range(self.parts):
                if target == source:
                    continue
                delta = self._change(vertex, target)
                if delta < -1e-12:
                    key = (delta + (row[source] - row[target]) * price, vertex, target)
                    if best is None or key < best:
                        best = key
        return ((best[1], best[2]),) if best is not None else None

    def _best_swap(self) -> tuple[tuple[int, int], ...] | None:
        best: tuple[float, int, int] | None = None
        price = 1.0 / (1 + self.cut)
        for vertex in self._broken():
            source = self.part[vertex]
            for other, target in enumerate(self.part):
                if target == source:
                    continue
                first = self._change(vertex, target)
                loss = self.towards[vertex][source] - self.towards[vertex][target]
                self._weigh(vertex, source, -1)
                self._weigh(vertex, target, 1)
                self.part[vertex] = target
                delta = first + self._change(other, source)
                loss += self.towards[other][target] - self.towards[other][source]
                self.part[vertex] = source
                self._weigh(vertex, target, -1)
                self._weigh(vertex, source, 1)
                if delta < -1e-12:
                    key = (delta + loss * price, vertex, other)
                    if best is None or key < best:
                        best = key
        if best is None:
            return None
        return (best[1], self.part[best[2]]), (best[2], self.part[best[1]])

    # -- improvement ---------------------------------------------------------------------------------------------

    def improve(self, passes: int = 20) -> None:
        """Passes of moves until none finds a better assignment that breaks nothing. Wants one to begin with."""
        for _ in range(passes):
            if not self._pass():
                return

    def _gain(self, vertex: int) -> tuple[int, int] | None:
        """The best move of a vertex that fits: ``(loss, target)``."""
        source = self.part[vertex]
        row = self.towards[vertex]
        best: tuple[int, int] | None = None
        held = row[source]
        for target in range(self.parts):
            if target != source:
                loss = held - row[target]
                if (best is None or loss < best[0]) and self._fits(vertex, target, self._lenient):
                    best = (loss, target)
        return best

    def _pass(self) -> bool:
        heap: list[tuple[int, int, int]] = []
        for vertex, row in enumerate(self.towards):
            source = self.part[vertex]
            if any(weight and part != source for part, weight in enumerate(row)):
                found = self._gain(vertex)
                if found is not None:
                    heap.append((found[0], vertex, found[1]))
        heapq.heapify(heap)
        locked = [False] * len(self.part)
        done: list[tuple[int, int]] = []
        start = best = self.cut
        length = since = 0
        over = 0.0
        while heap and since < _PATIENCE:
            loss, vertex, target = heapq.heappop(heap)
            if locked[vertex] or target == self.part[vertex]:
                continue
            found = self._gain(vertex)
            if found is None:
                continue
            if found != (loss, target):
                heapq.heappush(heap, (found[0], vertex, found[1]))
                if found[0] != loss:
                    continue
                heapq.heappop(heap) if heap[0] == (found[0], vertex, found[1]) else None
                target = found[1]
            done.append((vertex, self.part[vertex]))
            self.move(vertex, target)
            locked[vertex] = True
            since += 1
            over = self._over()
            if over == 0 and self.cut < best:
                best, length, since = self.cut, len(done), 0
            for other in self.graph.neighbours[vertex]:
                if not locked[other]:
                    found = self._gain(other)
                    if found is not None:
                        heapq.heappush(heap, (found[0], other, found[1]))
        for vertex, source in reversed(done[length:]):
            self.move(vertex, source)
        return best < start

    def _over(self) -> int:
        caps = self.caps
        return sum(held > caps[place] for load in self.load for place, held in enumerate(load))

    # -- annealing -----------------------------------------------------------------------------------------------

    def anneal(self, chance: Random, steps: int, heat: float) -> None:
        """Random moves and swaps, at first also bad ones; leaves the best assignment met, a good one before others.

        What is broken is priced at the cut of the average vertex and falls under the same temperature, so that a tight cap
        is no wall. ``heat`` is the temperature at the start, in average weights of a vertex's edges.
        """
        size = len(self.part)
        if size < 2 or self.parts < 2:
            return
        unit = max(1.0, sum(sum(row) for row in self.towards) / size)
        price = 8.0 * unit
        best, best_key = list(self.part), (self.excess() > 1e-9, self.cut + price * self.excess())
        excess = self.excess()
        cooling = (0.01 / heat) ** (1.0 / max(1, steps))
        temperature = heat * unit
        random, randrange = chance.random, chance.randrange
        for _ in range(steps):
            temperature *= cooling
            vertex = randrange(size)
            source = self.part[vertex]
            row = self.towards[vertex]
            swap = random() < 0.35
            if swap:
                other = randrange(size)
                target = self.part[other]
                if target == source:
                    continue
                loss = row[source] - row[target]
                delta = self._change(vertex, target)
                self.move(vertex, target)
                there = self.towards[other]
                loss += there[target] - there[source]
                delta += self._change(other, source)
            else:
                target = randrange(self.parts)
                if target == source:
                    continue
                loss = row[source] - row[target]
                if loss > 12 * temperature:
                    continue
                delta = self._change(vertex, target)
            change = loss + price * delta
            if change <= 0 or random() < math.exp(-change / temperature):
                self.move(other if swap else vertex, source if swap else target)
                excess += delta
                key = (excess > 1e-9, self.cut + price * max(0.0, excess))
                if key < best_key:
                    best, best_key = list(self.part), key
            elif swap:
                self.move(vertex, source)
        for vertex, part in enumerate(best):
            if self.part[vertex] != part:
                self.move(vertex, part)
