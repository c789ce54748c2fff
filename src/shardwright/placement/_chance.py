"""Draws for a search that is to find the same every time: no library's random numbers, no clock."""

from __future__ import annotations

from collections.abc import Sequence

_MASK = (1 << 64) - 1


class Chance:
    """The same numbers for the same seed, on every version of Python (splitmix64: Steele, Lea, Flood 2014)."""

    def __init__(self, seed: int) -> None:
        self._state = seed

    def below(self, bound: int) -> int:
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        mixed = self._state
        mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & _MASK
        return (mixed ^ mixed >> 31) % bound

    def sample(self, population: Sequence[int], count: int) -> list[int]:
        left = list(population)
        return [left.pop(self.below(len(left))) for _ in range(count)]
