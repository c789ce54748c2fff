"""Seasons found in the data: the lag at which a series resembles itself most, from its autocorrelation."""

from __future__ import annotations

import numpy as np

from shardwright.contracts.forecast import FloatArray, IntArray


def find_periods(
    history: FloatArray, *, shortest: int = 4, longest: int | None = None, least_likeness: float = 0.3
) -> IntArray:
    """The period of every series, in ticks; 1 where there is none.

    ``history`` has shape (series, ticks), NaN where nobody measured (counted as the mean). A period is the highest local
    maximum of the autocorrelation of the series less its straight line, at least ``least_likeness`` and seen at least
    twice: no more than half of the history. Of lags that are about as good the shortest wins, so that a day is not taken
    for a week.
    """
    series, ticks = history.shape
    longest = min(longest or ticks // 2, ticks // 2)
    if longest < max(shortest, 2):
        return np.ones(series, dtype=np.int64)
    known = ~np.isnan(history)
    counts = np.maximum(known.sum(axis=1, keepdims=True), 1)
    filled = np.where(known, history, 0.0)
    centred = np.where(known, history - filled.sum(axis=1, keepdims=True) / counts, 0.0)
    line = np.arange(ticks) - (ticks - 1) / 2
    slope = (centred * line).sum(axis=1, keepdims=True) / (line**2).sum()
    centred = np.where(known, centred - slope * line, 0.0)
    likeness = _autocorrelation(centred, longest + 2)
    # each lag has its own number of pairs; without this long periods, and those that holes avoid, would look too strong
    pairs = counts / np.maximum(_autocorrelation(known.astype(np.float64), longest + 2), 1.0)
    energy = np.where(likeness[:, :1] > 1e-12 * counts, likeness[:, :1], np.inf)
    likeness = likeness / energy * pairs
    inside = likeness[:, 1:-1]
    peaks = (inside >= likeness[:, :-2]) & (inside > likeness[:, 2:]) & (inside >= least_likeness)
    peaks[:, : shortest - 1] = False
    score = np.where(peaks, inside, -np.inf)
    best = score.max(axis=1, keepdims=True)
    good_enough = score >= np.maximum(best * 0.95, least_likeness)
    period = np.argmax(good_enough, axis=1) + 1
    return np.where(good_enough.any(axis=1), period, 1).astype(np.int64)


def _autocorrelation(rows: FloatArray, lags: int) -> FloatArray:
    """Sums of products with the row itself, shifted by 0 .. lags - 1."""
    ticks = rows.shape[1]
    spectrum = np.fft.rfft(rows, n=2 * ticks, axis=1)
    return np.fft.irfft(spectrum * np.conj(spectrum), axis=1)[:, :lags]
