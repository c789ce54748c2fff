"""When a rarely used shard is worth its memory: how long to keep it after use, and when to have it back before the next.

A window is chosen by the least past cost over the latest idle gaps of the component itself and a few gaps that are usual
among all components (the prior). Strict periods need no rule of their own: gaps are kept as they are, so the window closes
around them. Without any gap known it is ski rental: keep as long as a cold start is worth, which costs at most twice what
a clairvoyant would pay. Vectorised: one row a component.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from shardwright.contracts.forecast import BoolArray, FloatArray

DOUBT = 1.0  # of the gaps in a window that opens anew one does not count: it is what the window was drawn around
REGULAR, REGULAR_AFTER = 0.5, 6  # a spread (of 80 % of the gaps, over their middle) below which they tick like a clock
_TRUSTED = 0.05  # of doubt and prior, where they do


class Windows(Struct, frozen=True):
    """Per component, in seconds after its last use: idle until ``keep_s``, gone, back from ``again_s`` to ``until_s``.

    ``again_s`` is infinite where it does not come back before it is asked for. A start for ``again_s`` begins a start
    time earlier.
    """

    keep_s: FloatArray
    again_s: FloatArray
    until_s: FloatArray

    def warm_after(self, gap_s: FloatArray) -> BoolArray:
        """Whether a request finds a shard ready that long after the last."""
        return (gap_s <= self.keep_s) | ((gap_s >= self.again_s) & (gap_s <= self.until_s))

    def idle_s(self, gap_s: FloatArray, start_s: float) -> FloatArray:
        """How long a shard was idle or starting when the gap was that long."""
        back = np.where(np.isfinite(self.again_s), self.again_s, 0.0)
        came_back = self.hidden_start(gap_s, start_s)
        later = np.clip(np.minimum(gap_s, self.until_s) - back + start_s, 0.0, None)
        result: FloatArray = np.minimum(gap_s, self.keep_s) + np.where(came_back, later, 0.0)
        return result

    def hidden_start(self, gap_s: FloatArray, start_s: float) -> BoolArray:
        """Whether a start had begun before the gap ended."""
        return np.isfinite(self.again_s) & (gap_s > np.maximum(self.again_s - start_s, self.keep_s))


def choose_windows(
    gaps_s: FloatArray,
    prior_s: FloatArray,
    *,
    cold_s: float,
    hidden_s: float,
    start_s: float,
    counts: FloatArray | None = None,
    prior_weight: float = 1.0,
) -> Windows:
    """The window of least past cost for every row of ``gaps_s``, which is padded with NaN.

    ``counts`` says how many gaps each row stands for, where that is more than there are. ``prior_s`` are gaps usual in the
    population; together they weigh as much as ``prior_weight`` of the gaps in a row.
    """
    rows = gaps_s.shape[0]
    given = (~np.isnan(gaps_s)).sum(axis=1)
    counted = given.astype(np.float64) if counts is None else np.maximum(counts, given)
    prior = np.broadcast_to(prior_s, (rows, prior_s.size))
    trust = np.where(_regular(gaps_s, counted), _TRUSTED, 1.0)
    fades = trust * prior_weight / max(prior_s.size, 1)
    samples = np.concatenate((gaps_s, prior), axis=1)
    weights = np.concatenate((~np.isnan(gaps_s), np.repeat(fades[:, None], prior_s.size, axis=1)), axis=1)
    order = np.argsort(samples, axis=1)  # NaN last
    samples = np.take_along_axis(samples, order, axis=1)
    weights = np.take_along_axis(weights, order, axis=1)
    samples = np.where(np.isnan(samples), np.nanmax(samples, axis=1, initial=0.0, keepdims=True), samples)
    doubt = trust * DOUBT * cold_s * given.clip(1) / counted.clip(1)
    tolerance = _tolerance(gaps_s, counted, cold_s)
    keep, again, until = _least_cost(samples, weights, tolerance, doubt, cold_s, hidden_s, start_s)
    unknown = (counted == 0) & (prior_s.size == 0)
    return Windows(np.where(unknown, cold_s, keep), np.where(unknown, np.inf, again), np.where(unknown, np.inf, until))


def _regular(gaps_s: FloatArray, counted: FloatArray) -> BoolArray:
    """Which rows are strictly periodic, as far as they are known."""
    some = (counted >= REGULAR_AFTER)[:, None]
    low, middle, high = np.nanquantile(np.where(some, gaps_s, 0.0), [0.1, 0.5, 0.9], axis=1)
    result: BoolArray = some[:, 0] & (high - low < REGULAR * middle)
    return result


def _tolerance(gaps_s: FloatArray, counted: FloatArray, cold_s: float) -> FloatArray:
    """How far outside those seen the next gap is provided for, at least a second.

    Beyond n gaps lies one in n + 1, and how far is taken to fall off exponentially with a quarter of the middle spread; a
    window is widened until a second more costs what it saves of a cold start.
    """
    few = counted < 2
    safe = np.where(few[:, None], 0.0, gaps_s)
    scale = (np.nanquantile(safe, 0.9, axis=1) - np.nanquantile(safe, 0.1, axis=1)) / 4
    at_stake = cold_s / ((counted + 1) * np.maximum(scale, 1e-9))
    wide: FloatArray = np.maximum(1.0, scale * np.log(np.maximum(at_stake, 1.0)))
    return wide


def _least_cost(
    samples: FloatArray,
    weights: FloatArray,
    tolerance: FloatArray,
    doubt: FloatArray,
    cold_s: float,
    hidden_s: float,
    start_s: float,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Keep, again, until of least cost, for sorted samples.

    The gaps are gone through by sums of prefixes: W before a sample, G of their lengths. A second window from sample i to
    sample j costs its idleness, a hidden start for every gap that reaches it, and a cold one for those beyond or before.
    """
    rows, count = samples.shape
    index = np.arange(rows)
    W = np.concatenate((np.zeros((rows, 1)), np.cumsum(weights, axis=1)), axis=1)  # weight of the samples before i
    G = np.concatenate((np.zeros((rows, 1)), np.cumsum(weights * samples, axis=1)), axis=1)
    whole = W[:, -1:]
    begins = samples - tolerance[:, None]
    ends = samples + tolerance[:, None]
    # cost[r, i, j] of the second window for the samples from i on
    inside = W[:, None, 1:] - W[:, :-1, None]
    idle = (G[:, None, 1:] - G[:, :-1, None]) - begins[:, :, None] * inside
    beyond = (whole - W[:, 1:])[:, None, :]
    idle = idle + (ends[:, None, :] - begins[:, :, None]) * beyond
    reached = (whole - W[:, :-1])[:, :, None]
    cost = idle + cold_s * beyond + (hidden_s + start_s) * reached
    cost[:, np.arange(count)[:, None] > np.arange(count)[None, :]] = np.inf
    cost[begins <= start_s] = np.inf  # it could not be back so early
    last = np.argmin(cost, axis=2)
    least = np.take_along_axis(cost, last[:, :, None], axis=2)[:, :, 0] + doubt[:, None]
    # the best second window when samples before i were served by the first: a minimum from the right
    from_here = least + cold_s * W[:, :-1]
    never = cold_s * whole
    best_cost = np.concatenate((np.minimum.accumulate(from_here[:, ::-1], axis=1)[:, ::-1], never), axis=1)
    best_cost = np.minimum(best_cost, never) - cold_s * W
    # the first window: none, or until just after sample j
    shut = G[:, 1:] + ends * (whole - W[:, 1:])
    first = np.concatenate((np.zeros((rows, 1)), shut), axis=1) + best_cost
    chosen = np.argmin(first, axis=1)
    keep = np.where(chosen > 0, ends[index, np.maximum(chosen - 1, 0)], 0.0)
    later = np.where(np.arange(count)[None, :] >= chosen[:, None], from_here, np.inf)
    start = np.argmin(later, axis=1)
    comes_back = later[index, start] < never[:, 0]
    again = np.where(comes_back, begins[index, start], np.inf)
    until = np.where(comes_back, ends[index, last[index, start]], np.inf)
    return keep, np.where(again <= keep, np.inf, again), np.where(again <= keep, np.inf, until)
