"""Metrics: numbers by name and labels, to be read as a whole."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

from msgspec import Struct

Series: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]  # name, labels sorted by name
LATENCIES_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Distribution(Struct, frozen=True):
    """How observed values are spread: ``counts[i]`` of them were at most ``bounds[i]``, the last count is that of all."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


class _Spread:
    """The same while it grows: each count of its own interval alone."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def frozen(self) -> Distribution:
        sums, so_far = [], 0
        for count in self.counts:
            so_far += count
            sums.append(so_far)
        return Distribution(self.bounds, tuple(sums), self.total)


class Metrics:
    """Counters, which only grow, gauges, which are set, and distributions of what was observed.

    Safe to use from any thread. Make a new one after a fork.

    Each combination of labels is a series and is kept for good: label by component, never by session or call.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[Series, float] = {}
        self._spreads: dict[Series, _Spread] = {}

    def __repr__(self) -> str:
        return f"Metrics({len(self._values) + len(self._spreads)} series)"

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Raise a counter. Raises ValueError for a negative amount."""
        if amount < 0:
            raise ValueError(f"counter {name} cannot fall by {-amount}")
        self.count_series((name, tuple(sorted(labels.items()))), amount)

    def count_series(self, series: Series, amount: float = 1) -> None:
        """The same where the series is at hand, for what is counted often."""
        with self._lock:
            self._values[series] = self._values.get(series, 0) + amount

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        with self._lock:
            self._values[name, tuple(sorted(labels.items()))] = value

    def observe(self, name: str, value: float, *, bounds: Sequence[float] = LATENCIES_S, **labels: str) -> None:
        """Add a value to a distribution. ``bounds`` rise, and count at the first value of a series alone."""
        self.observe_series((name, tuple(sorted(labels.items()))), value, bounds)

    def observe_series(self, series: Series, value: float, bounds: Sequence[float] = LATENCIES_S) -> None:
        """The same where the series is at hand."""
        with self._lock:
            spread = self._spreads.get(series)
            if spread is None:
                spread = self._spreads[series] = _Spread(bounds)
            spread.counts[bisect_left(spread.bounds, value)] += 1
            spread.total += value

    def distributions(self) -> Mapping[Series, Distribution]:
        """All distributions as they are now."""
        with self._lock:
            return MappingProxyType({series: spread.frozen() for series, spread in self._spreads.items()})

    def snapshot(self) -> Mapping[Series, float]:
        """All counters and gauges as they are now; it does not change afterwards."""
        with self._lock:
            return MappingProxyType(dict(self._values))
