"""What shards of each component usually take: decaying histograms, kept across restarts.

Sparse, and without numpy: a node that decides nothing with arrays does not wait for its import. Buckets are those of
``forecast.DecayingHistogram``: 0, ``FIRST``, and then each ``RATIO`` times the one before.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FIRST, RATIO, BUCKETS = 1e-3, 1.1, 256
_LOG = math.log(RATIO)
_FORM = 1


class History:
    """One series: quantiles of what was seen, of which half counts after ``half_life_s``."""

    __slots__ = ("_half_life_s", "_origin_s", "_total", "_weights")

    def __init__(self, half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self._weights: dict[int, float] = {}
        self._total = 0.0
        self._origin_s = 0.0

    def observe(self, value: float, now: float) -> None:
        """Count a value; what is no amount is left out. A clock that goes back counts as one that stands still."""
        if not (math.isfinite(value) and value >= 0):
            return
        if not self._weights:
            self._origin_s = now
        age = max(0.0, now - self._origin_s) / self._half_life_s
        if age > 30:
            scale = 2.0 ** -min(age, 1000.0)
            self._weights = {b: w * scale for b, w in self._weights.items() if w * scale > 1e-9}
            self._total = sum(self._weights.values())
            self._origin_s, age = now, 0.0
        bucket = 0 if value <= FIRST else min(BUCKETS - 1, math.ceil(math.log(value / FIRST) / _LOG - 1e-9))
        self._weights[bucket] = self._weights.get(bucket, 0.0) + 2.0**age
        self._total += 2.0**age

    def quantile(self, share: float) -> float:
        """The upper edge of the bucket in which it lies; NaN without any value."""
        if not self._weights:
            return math.nan
        left = share * self._total * (1 - 1e-12)
        for bucket in sorted(self._weights):
            left -= self._weights[bucket]
            if left <= 0:
                break
        return FIRST * RATIO**bucket

    def to_json(self) -> dict[str, Any]:
        return {"origin_s": self._origin_s, "weights": {str(b): w for b, w in self._weights.items()}}

    def take_up(self, kept: Mapping[str, Any]) -> None:
        """Raises ValueError, TypeError, KeyError for what is none."""
        weights = {int(bucket): float(weight) for bucket, weight in kept["weights"].items()}
        origin_s = float(kept["origin_s"])
        sound = all(0 <= b < BUCKETS and math.isfinite(w) and w > 0 for b, w in weights.items())
        if not sound or not math.isfinite(origin_s):
            raise ValueError("a history holds weights of buckets")
        self._weights, self._origin_s = weights, origin_s
        self._total = sum(weights.values())


def keep_json(path: Path, value: object) -> None:
    """Replace the file, whole or not at all. Raises OSError."""
    text = json.dumps(value)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def kept_json(path: Path) -> Any:
    """What ``keep_json`` wrote. Raises OSError, and ValueError where that is no JSON."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(descriptor, encoding="ascii") as file:
        return json.load(file)


class Histories:
    """Histories by name, in the order in which they came. Times are those of the wall clock: they outlive the process."""

    def __init__(self, half_life_s: float = 86400.0) -> None:
        self._half_life_s = half_life_s
        self._series: dict[str, History] = {}

    def __repr__(self) -> str:
        return f"<Histories of {', '.join(self._series) or 'nothing'}>"

    def observe(self, name: str, value: float, wall_s: float) -> None:
        series = self._series.get(name)
        if series is None:
            series = self._series[name] = History(self._half_life_s)
        series.observe(value, wall_s)

    def quantile(self, name: str, share: float) -> float:
        series = self._series.get(name)
        return math.nan if series is None else series.quantile(share)

    def save(self, path: Path) -> None:
        """Replace the file, whole or not at all. Raises OSError."""
        keep_json(path, {"form": _FORM, "series": {n: s.to_json() for n, s in self._series.items()}})

    def load(self, path: Path) -> bool:
        """Take up what was saved; False when there is nothing that can be read: then they begin anew."""
        try:
            kept = kept_json(path)
            if kept["form"] != _FORM:
                return False
            for name, series in kept["series"].items():
                history = History(self._half_life_s)
                history.take_up(series)
                self._series[str(name)] = history
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            self._series.clear()
            return False
        return True
