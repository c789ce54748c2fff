"""Metrics: numbers by name and labels, to be read as a whole."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

Series: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]  # name, labels sorted by name


class Metrics:
    """Counters, which only grow, and gauges, which are set. Safe to use from any thread. Make a new one after a fork.

    Each combination of labels is a series and is kept for good: label by component, never by session or call.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[Series, float] = {}

    def __repr__(self) -> str:
        return f"Metrics({len(self._values)} series)"

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Raise a counter. Raises ValueError for a negative amount."""
        if amount < 0:
            raise ValueError(f"counter {name} cannot fall by {-amount}")
        series = (name, tuple(sorted(labels.items())))
        with self._lock:
            self._values[series] = self._values.get(series, 0) + amount

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        with self._lock:
            self._values[name, tuple(sorted(labels.items()))] = value

    def snapshot(self) -> Mapping[Series, float]:
        """All series as they are now; it does not change afterwards."""
        with self._lock:
            return MappingProxyType(dict(self._values))
