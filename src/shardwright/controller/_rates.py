"""How often a component is asked for just now, and how soon again: a filter over rates, for any number of components at once.

Demand is taken to come at a rate that stays for a while and then changes: to a neighbouring one now and then, or to any other, and
which others there are is learnt from the component's own past (for how long each rate was, so far). What is known of the
present rate is a distribution over ``RATES``, a geometric grid. Silence makes high rates less likely, an arrival low ones. So the
first call after hours of silence says "a burst has begun" where bursts were seen before, and half a minute without a call
says that it is over: neither needs a threshold. (The filter is that of a Markov-modulated Poisson process; Rydén 1996.)

From it follow the hazard of each need for a spare, now and after any silence to come, and with it for how long a spare is worth
keeping and whether it is worth a start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shardwright.contracts.forecast import BoolArray, FloatArray, IntArray

RATES = 1e-5 * 1.7 ** np.arange(30)  # arrivals a second: from one in a day to 50
_HALVINGS = (1 / 64, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of a silence, in which the filter is advanced
AHEAD_S = 0.25 * 2.0 ** np.arange(17)  # the steps in which it looks ahead: a quarter of a second to nine hours
_TINY = 1e-300
_OF_ALL, _OF_OTHERS = 2.0, 3.0  # clusters that a prior weighs: of all rates, and at one rate


@dataclass(frozen=True, slots=True)
class RateParams:
    """``change_s``: about how long a rate stays before it may become any other; ``drift_s`` before it becomes a neighbour.

    ``doubt`` arrivals of its own past weigh as much as not knowing anything: any rate may come, in equally many of them.
    ``memory_s`` fades that past, and ``clusters`` is how many of them tell their sizes.
    """

    change_s: float = 3600.0
    drift_s: float = 1000.0
    doubt: float = 2.0
    memory_s: float = 7 * 86400.0
    clusters: float = 200.0


class Rates:
    """What is known of ``rows`` components. ``start_s`` are their start times; arrivals within one are a cluster."""

    def __init__(self, params: Sequence[RateParams], start_s: FloatArray, spares: int) -> None:
        rows = len(params)
        self._spares = np.arange(spares)
        self._change = np.array([1 / each.change_s for each in params])
        self._drift = np.array([1 / each.drift_s for each in params])
        self._memory_s = np.array([each.memory_s for each in params])
        self._fade = np.array([1 - 1 / each.clusters for each in params])
        doubt = np.array([each.doubt for each in params])
        self._lain = doubt[:, None] / (RATES.size * RATES)[None, :]  # for how long each rate was, in seconds
        self.present: FloatArray = self._usual(np.arange(rows))
        self._began = np.full(rows, -np.inf)
        self._size = np.zeros(rows, dtype=np.int64)
        self._sizes = np.zeros((rows, spares, RATES.size))
        times, self._time = np.unique(start_s, return_inverse=True)
        self._chance = np.stack([need_shares(float(each), spares) for each in times]) if rows else self._sizes

    def __repr__(self) -> str:
        return f"<Rates of {self._size.size} components>"

    def starts_take(self, start_s: float) -> None:
        """All starts take so long now."""
        self._chance, self._time = need_shares(start_s, self._spares.size)[None], np.zeros_like(self._time)

    def arrived(self, rows: IntArray, at: FloatArray, others: IntArray) -> None:
        """Something arrives in each of ``rows``, ``others`` came within the start time before it."""
        new = others == 0
        begins, now = rows[new], at[new]
        silence = now - self._began[begins]
        self._began[begins], self._size[begins] = now, 0
        self._sizes[begins] *= self._fade[begins][:, None, None]
        first, begins, silence = (
            begins[~np.isfinite(silence)], begins[np.isfinite(silence)], silence[np.isfinite(silence)]
        )  # fmt: skip
        self.present[first] = arrived(self.present[first])
        if begins.size:
            before = self.present[begins]
            after = silent(before, self._usual(begins), silence, self._change[begins], self._drift[begins])
            self._lain[begins] *= np.exp(-silence / self._memory_s[begins])[:, None]
            self._lain[begins] += silence[:, None] * (0.25 * before + 0.75 * after)
            self.present[begins] = arrived(after)
        size = np.minimum(others + 1, self._spares.size)
        reached = (self._spares >= self._size[rows][:, None]) & (self._spares < size[:, None])
        self._sizes[rows] += reached[:, :, None] * self.present[rows][:, None, :]
        self._size[rows] = np.maximum(self._size[rows], size)

    def ahead(self, rows: IntArray, cold_s: FloatArray, hidden_s: FloatArray) -> tuple[FloatArray, BoolArray]:
        """For how long from the last arrival on each spare is worth keeping, and whether it is worth a start."""
        return look_ahead(
            self.present[rows], self._usual(rows), self._needed(rows), cold_s, hidden_s, self._change[rows],
            self._drift[rows],
        )  # fmt: skip

    def _usual(self, rows: IntArray) -> FloatArray:
        lain = self._lain[rows]
        result: FloatArray = lain / lain.sum(axis=1, keepdims=True)
        return result

    def _needed(self, rows: IntArray) -> FloatArray:
        """How often each spare is needed at each rate: by the sizes of clusters seen at that rate, at all, or by chance."""
        counts = self._sizes[rows]
        overall = counts.sum(axis=2, keepdims=True)
        shares = (overall + _OF_ALL * self._chance[self._time[rows]]) / (overall[:, :1] + _OF_ALL)
        shares = (counts + _OF_OTHERS * shares) / (counts[:, :1] + _OF_OTHERS)
        result: FloatArray = shares * RATES
        return result


def silent(now: FloatArray, usual: FloatArray, for_s: FloatArray, change: FloatArray, drift: FloatArray) -> FloatArray:
    """The distributions after ``for_s`` without an arrival; ``change`` and ``drift`` per second, one entry a row."""
    for share in _HALVINGS:
        step = (for_s * share)[:, None]
        now = _neighbours(now, 1 - np.exp(-drift[:, None] * step))
        leaves = RATES[None, :] + change[:, None]
        stays = np.exp(-leaves * step)
        now = now * stays + change[:, None] * usual * (1 - stays) / leaves
        now = now / np.maximum(now.sum(axis=1, keepdims=True), _TINY)
    return now


def arrived(now: FloatArray) -> FloatArray:
    """The distributions after an arrival."""
    now = now * RATES
    result: FloatArray = now / np.maximum(now.sum(axis=1, keepdims=True), _TINY)
    return result


def need_shares(start_s: float, spares: int) -> FloatArray:
    """At each rate the share of arrivals that find k - 1 others within a start time, if they come independently."""
    load = RATES * start_s
    term, below, rows = np.exp(-load), np.zeros_like(load), []
    for others in range(spares):
        rows.append(np.clip(1 - below, 0.0, 1.0))
        below = below + term
        term = term * load / (others + 1)
    return np.stack(rows)


def look_ahead(
    now: FloatArray,
    usual: FloatArray,
    needed: FloatArray,
    cold_s: FloatArray,
    hidden_s: FloatArray,
    change: FloatArray,
    drift: FloatArray,
) -> tuple[FloatArray, BoolArray]:
    """For how long each spare is worth keeping if nothing arrives, and whether it is worth a start.

    ``needed`` has shape (rows, spares, rates), as of ``need_rates``. A spare is worth keeping while the rate of needs times
    what a cold start costs is at least one; it is worth a start if what it is expected to save until then is more.
    """
    rows, spares = needed.shape[:2]
    keep = np.zeros((rows, spares))
    worth = np.zeros((rows, spares))
    quiet = now
    # needs of the k-th spare end its own future alone: the others' arrivals do not
    alive = np.repeat(now[:, None, :], spares, axis=1)
    holds = np.einsum("rl,rkl->rk", quiet, needed) * cold_s[:, None] >= 1
    earns = holds.copy()
    rest = change[:, None, None]
    for step in AHEAD_S:
        if not (holds.any() or earns.any()):
            break
        moved = (1 - np.exp(-drift * step))[:, None]
        leaves = RATES[None, :] + change[:, None]
        stays = np.exp(-leaves * step)
        before = np.einsum("rl,rkl->rk", quiet, needed)
        quiet = _neighbours(quiet, moved)
        quiet = quiet * stays + change[:, None] * usual * (1 - stays) / leaves
        quiet = quiet / np.maximum(quiet.sum(axis=1, keepdims=True), _TINY)
        after = np.einsum("rl,rkl->rk", quiet, needed)
        still = after * cold_s[:, None] >= 1
        # where it stops to be worth it in between: by the logarithm of the rate
        fall = np.log(np.maximum(before * cold_s[:, None], 1.0))
        drop = np.log(np.maximum(before, _TINY) / np.maximum(after, _TINY))
        part = np.where(still, 1.0, np.clip(fall / np.maximum(drop, 1e-12), 0.0, 1.0))
        keep += np.where(holds, part * step, 0.0)
        holds &= still
        leaving = needed + rest
        remains = np.exp(-leaving * step)
        whole = alive.sum(axis=2)
        hazard = np.einsum("rkl,rkl->rk", alive, needed)
        worth += np.where(earns, _gain(whole, hazard, cold_s, step), 0.0)
        alive = _neighbours(alive, moved[:, None, :])
        alive = alive * remains + rest * usual[:, None, :] * whole[:, :, None] * (1 - remains) / leaving
        earns &= np.einsum("rkl,rkl->rk", alive, needed) * cold_s[:, None] >= alive.sum(axis=2)
    return keep, (worth > hidden_s[:, None]) & (keep > 0)


def _gain(whole: FloatArray, hazard: FloatArray, cold_s: FloatArray, step: float) -> FloatArray:
    """Saved cold starts less idleness within a step that begins with this survival and this rate of needs."""
    rate = hazard / np.maximum(whole, _TINY)
    ends = 1 - np.exp(-rate * step)
    result: FloatArray = whole * (ends * cold_s[:, None] - ends / np.maximum(rate, _TINY))
    return result


def _neighbours(now: FloatArray, moved: FloatArray) -> FloatArray:
    """A part moves to the next lower and the next higher rate."""
    up = np.concatenate((np.zeros_like(now[..., :1]), now[..., :-1]), axis=-1)
    down = np.concatenate((now[..., 1:], np.zeros_like(now[..., :1])), axis=-1)
    up[..., -1] += now[..., -1]
    down[..., 0] += now[..., 0]
    result: FloatArray = now * (1 - moved) + (up + down) * (moved / 2)
    return result
