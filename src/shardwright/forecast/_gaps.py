"""Idle gaps: how long each series stayed unused between two uses, and what is usual among all of them.

The latest gaps of each series are kept as they are (a period of an hour must not blur in a bucket of minutes); the
population is a histogram of logarithms, from which a series without history borrows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from shardwright.contracts.forecast import FloatArray, IntArray
from shardwright.forecast._arrays import copied, taken_up

_SHORTEST_S, _LONGEST_S, _BUCKETS_PER_DECADE = 0.01, 1e7, 20
_BUCKETS = 9 * _BUCKETS_PER_DECADE


class IdleGaps:
    """The ``remember`` latest gaps of each of ``series`` series, and the gaps of all, each series with equal voice."""

    def __init__(self, series: int, *, remember: int = 400) -> None:
        self._recent: FloatArray = np.full((series, remember), np.nan)
        self._count: IntArray = np.zeros(series, dtype=np.int64)
        self._buckets: FloatArray = np.zeros((series, _BUCKETS))

    @property
    def series(self) -> int:
        return int(self._count.size)

    @property
    def count(self) -> IntArray:
        """How many gaps of each series were ever observed."""
        return self._count.copy()

    def observe(self, rows: IntArray, gaps_s: FloatArray) -> None:
        """One gap for each of these series, in seconds; a series may occur several times, oldest first.

        Gaps that are not finite or negative are left out.
        """
        for row, gap in zip(np.asarray(rows).tolist(), np.asarray(gaps_s).tolist(), strict=True):
            if not 0 <= gap < np.inf:
                continue
            self._recent[row, self._count[row] % self._recent.shape[1]] = gap
            self._count[row] += 1
            self._buckets[row, bucket_of(gap)] += 1

    def recent(self) -> FloatArray:
        """The latest gaps, shape (series, remember), in no particular order; NaN where there are fewer."""
        return self._recent.copy()

    def thinned(self, rows: IntArray) -> FloatArray:
        """The latest gaps of these series as ``thinned`` gives them, a row each."""
        return np.stack([thinned(self._recent[row][~np.isnan(self._recent[row])]) for row in np.asarray(rows).tolist()])

    def population(self, samples: int = 12, *, least: int = 3) -> FloatArray:
        """``samples`` evenly spaced quantiles of the gaps of all series; empty before ``least`` series have any.

        Each series counts once, however often it is used: the prior is of a series, not of a gap.
        """
        known = self._buckets[self._count > 0]
        if known.shape[0] < least:
            return np.empty(0)
        shares = (known / known.sum(axis=1, keepdims=True)).mean(axis=0)
        middles = (np.arange(samples) + 0.5) / samples
        index = np.searchsorted(np.cumsum(shares), middles * (1 - 1e-12))
        return np.asarray(_SHORTEST_S * 10 ** ((np.minimum(index, _BUCKETS - 1) + 0.5) / _BUCKETS_PER_DECADE))

    def snapshot(self) -> dict[str, FloatArray]:
        return copied(recent=self._recent, count=self._count, buckets=self._buckets)

    def restore(self, snapshot: Mapping[str, FloatArray]) -> None:
        fields = taken_up(snapshot, recent=self._recent, buckets=self._buckets)
        counts = taken_up(snapshot, count=self._count.astype(np.float64))
        self._recent, self._buckets = fields["recent"], fields["buckets"]
        self._count = counts["count"].astype(np.int64)


def bucket_of(gap_s: float) -> int:
    """In which logarithmic bucket a gap falls."""
    place = np.log10(min(max(gap_s, _SHORTEST_S), _LONGEST_S) / _SHORTEST_S) * _BUCKETS_PER_DECADE
    return min(int(place), _BUCKETS - 1)


def thinned(gaps_s: FloatArray, samples: int = 40) -> FloatArray:
    """At most ``samples`` gaps that stand for all: evenly spaced quantiles, both ends among them; padded with NaN."""
    result = np.full(samples, np.nan)
    if gaps_s.size > samples:
        ordered = np.sort(gaps_s)
        result[:] = ordered[np.round(np.linspace(0, ordered.size - 1, samples)).astype(np.int64)]
    else:
        result[: gaps_s.size] = gaps_s
    return result
