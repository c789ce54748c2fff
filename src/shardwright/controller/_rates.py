"""How often a component is asked for just now, and how soon again: a filter over rates, for any number of components at once.

Demand is taken to come at a rate that stays for a while and then changes: to a neighbouring one now and then, or to any
other, and which others there are is learnt from the component's own past (for how long each rate was, so far). What is
known of the present rate is a distribution over ``RATES``, a geometric grid. Silence makes high rates less likely, an
arrival low ones. So the first call after hours of silence says "a burst has begun" where bursts were seen before, and half
a minute without a call says that it is over: neither needs a threshold. (The filter is that of a Markov-modulated Poisson
process; Rydén 1996.)

From it follow the hazard of each need for a spare, now and after any silence to come, and with it for how long a spare is worth
keeping and whether it is worth a start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from msgspec import Struct

from shardwright.contracts.forecast import BoolArray, FloatArray, IntArray

RATES = 1e-5 * 2.0 ** np.arange(22)  # arrivals a second: from one in a day to 20
_HALVINGS = (1 / 32, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of a silence, in which the filter is advanced
AHEAD_S = 0.5 * 2.5 ** np.arange(14)  # the steps in which it looks ahead: from half a second to a day and a half
_TINY = 1e-300
_LASTS = 3.0  # arrivals, for which a rate stays at least
_OF_ALL, _OF_OTHERS = 2.0, 3.0  # clusters that a prior weighs: of all rates, and at one rate


class RateParams(Struct, frozen=True):
    """``change_s``: about how long a rate stays before it may become any other; ``drift_s`` before it becomes a neighbour.

    ``doubt`` arrivals of its own past weigh as much as not knowing anything: any rate may come, in equally many of them.
    ``memory_s`` fades that past, and ``clusters`` is how many of them tell their sizes.
    """

    change_s: float = 3600.0
    drift_s: float = 1000.0
    doubt: float = 0.5
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

    def snapshot(self, row: int) -> dict[str, list[float]]:
        """What was learnt of one component, without the present: that is another one when it is taken up."""
        return {"lain": self._lain[row].tolist(), "sizes": self._sizes[row].ravel().tolist()}

    def restore(self, row: int, kept: Mapping[str, Sequence[float]]) -> bool:
        """Take up what ``snapshot`` gave; False where it is none, and then nothing changes."""
        try:
            lain, sizes = (np.array(kept[name], dtype=np.float64) for name in ("lain", "sizes"))
        except (KeyError, TypeError, ValueError):
            return False
        if lain.shape != self._lain[row].shape or sizes.size != self._sizes[row].size:
            return False
        if not (np.isfinite(lain).all() and np.isfinite(sizes).all() and np.min(lain) >= 0 and np.min(sizes) >= 0):
            return False
        self._lain[row] = np.maximum(lain, self._lain[row])  # what is not known stays possible
        self._sizes[row] = sizes.reshape(self._sizes[row].shape)
        self.present[row] = self._usual(np.array([row]))[0]
        return True

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
            # a high rate that was likely at first cannot have lasted: silence would have ended it
            lasted = before * -np.expm1(-RATES * silence[:, None]) / RATES
            rest = np.maximum(silence - lasted.sum(axis=1), 0.0)
            self._lain[begins] += lasted + rest[:, None] * after
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
        now = _neighbours(now, drift[:, None], step)
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
    keep, worth = np.zeros((rows, spares)), np.zeros((rows, spares))
    alive = np.ones((rows, spares))  # the chance that a spare was not needed yet
    hazard = np.einsum("rl,rkl->rk", now, needed)
    price = cold_s[:, None]
    holds = hazard * price >= 1
    leaves = RATES[None, :] + change[:, None]
    returns = change[:, None] * usual / leaves
    for step in AHEAD_S:
        # spares beyond those that are worth anything, and rows without any, need no look
        most = int(holds.any(axis=0).sum())
        if most == 0:
            break
        needed, hazard, price = needed[:, :most], hazard[:, :most], cold_s[:, None]
        stays = np.exp(-leaves * step)
        now = _neighbours(now, drift[:, None], float(step))
        now = now * stays + returns * (1 - stays)
        now /= np.maximum(now.sum(axis=1, keepdims=True), _TINY)
        after = np.einsum("rl,rkl->rk", now, needed)
        live, still = holds[:, :most], after * price >= 1
        # where in between it stops to be worth it: by the logarithm of the hazard
        drop = np.log(np.maximum(hazard, _TINY) / np.maximum(after, _TINY))
        part = np.clip(np.log(np.maximum(hazard * price, 1.0)) / np.maximum(drop, 1e-12), 0.0, 1.0)
        part = np.where(still, 1.0, part) * step
        keep[:, :most] += np.where(live, part, 0.0)
        usually = np.maximum((hazard + after) / 2, _TINY)
        ends = 1 - np.exp(-usually * part)
        worth[:, :most] += np.where(live, alive[:, :most] * ends * (price - 1 / usually), 0.0)
        alive[:, :most] *= 1 - ends
        holds[:, :most] = live & still
        holds[:, most:] = False
        hazard = after
    keep[holds] = np.inf
    return keep, worth > hidden_s[:, None]


def _neighbours(now: FloatArray, drift: FloatArray, step: FloatArray | float) -> FloatArray:
    """A part moves to the next lower and the next higher rate: low rates more slowly, for they are known by few arrivals."""
    moved = now * (1 - np.exp(-np.minimum(drift, RATES / _LASTS) * step)) / 2
    now = now - 2 * moved
    now[:, 1:] += moved[:, :-1]
    now[:, :-1] += moved[:, 1:]
    now[:, 0] += moved[:, 0]
    now[:, -1] += moved[:, -1]
    return now
