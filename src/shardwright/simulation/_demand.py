"""Sessions made from a trace: when each arrives and ends, by seed, at a size that one node could hold."""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from shardwright.contracts.forecast import BoolArray, FloatArray, IntArray
from shardwright.simulation._traces import Arrivals, Series, Trace


class DemandParams(Struct, frozen=True):
    """How sessions are made: held lognormally for ``hold_s`` in the mean, rates scaled down to ``most_at_once`` of them.

    Of long traces the first ``longest_s``, and of those what holds about ``most_sessions``, are used.
    """

    hold_s: float = 60.0
    hold_sigma: float = 1.0
    most_at_once: float = 20.0
    longest_s: float = 14 * 86400.0
    most_sessions: int = 20_000
    tune_share: float = 0.4


class Sessions(Struct, frozen=True):
    """One component's demand: begins and ends of sessions, and the rate that they were drawn from, in steps.

    ``events_s`` are all begins and ends in order, ``begins`` says which are which, ``at_once`` how many run after each.
    A session lasts from its arrival, waiting for a start included: so demand is the same whatever is decided.
    """

    name: str
    length_s: float
    score_from_s: float
    events_s: FloatArray
    begins: BoolArray
    at_once: IntArray
    step_s: float
    rate: FloatArray

    @property
    def count(self) -> int:
        return int(self.begins.sum())


def make_sessions(trace: Trace, seed: int, params: DemandParams) -> Sessions:
    """The sessions of one component; the same for equal arguments."""
    generator = np.random.default_rng([seed, *trace.name.encode()])
    if isinstance(trace, Series):
        arrivals, length_s, step_s, rate = _from_rates(trace, generator, params)
    else:
        arrivals, length_s, step_s, rate = _from_arrivals(trace, generator, params)
    mean = np.log(params.hold_s) - params.hold_sigma**2 / 2
    holds = generator.lognormal(mean, params.hold_sigma, arrivals.size)
    times = np.concatenate((arrivals, arrivals + holds))
    begins = np.concatenate((np.ones(arrivals.size, dtype=bool), np.zeros(arrivals.size, dtype=bool)))
    order = np.lexsort((begins, times))
    times, begins = times[order], begins[order]
    inside = times < length_s
    times, begins = times[inside], begins[inside]
    at_once = np.cumsum(np.where(begins, 1, -1))
    return Sessions(trace.name, length_s, params.tune_share * length_s, times, begins, at_once, step_s, rate)


def _from_rates(
    trace: Series, generator: np.random.Generator, params: DemandParams
) -> tuple[FloatArray, float, float, FloatArray]:
    steps = min(trace.values.size, int(params.longest_s / trace.step_s))
    rate = np.maximum(trace.values[:steps], 0.0)
    peak = float(rate.max(initial=0.0)) * params.hold_s
    rate = rate * min(1.0, params.most_at_once / peak) if peak > 0 else rate
    expected = np.concatenate(([0.0], np.cumsum(rate) * trace.step_s))
    if expected[-1] > params.most_sessions:
        steps = int(np.searchsorted(expected, params.most_sessions))
        rate, expected = rate[:steps], expected[: steps + 1]
    busy = rate > 0
    cv = float(np.median(trace.cv[: rate.size][busy])) if busy.any() else 1.0
    # a renewal process in the time in which the rate is 1, carried over to real time
    total = float(expected[-1])
    shape = 1.0 / max(cv, 0.05) ** 2
    own_time = np.cumsum(generator.gamma(shape, 1.0 / shape, int(total + 20 * cv * np.sqrt(total + 1) + 50)))
    edges = np.arange(rate.size + 1) * trace.step_s
    arrivals = np.interp(own_time[own_time < total], expected, edges)
    return arrivals, float(edges[-1]), trace.step_s, rate


def _from_arrivals(
    trace: Arrivals, generator: np.random.Generator, params: DemandParams
) -> tuple[FloatArray, float, float, FloatArray]:
    length_s = min(trace.length_s, params.longest_s)
    at = trace.at_s[trace.at_s < length_s]
    step_s = 60.0
    steps = max(1, int(np.ceil(length_s / step_s)))
    counts = np.bincount((at / step_s).astype(np.int64), minlength=steps)[:steps]
    kept = min(1.0, params.most_at_once / max(float(np.max(counts, initial=0)) / step_s * params.hold_s, 1e-9))
    kept = min(kept, params.most_sessions / max(at.size, 1))
    arrivals = at[generator.random(at.size) < kept]
    rate = counts / step_s * kept
    window = np.ones(5) / 5
    smooth = np.convolve(rate, window, mode="same") / np.convolve(np.ones(steps), window, mode="same")
    return arrivals, length_s, step_s, smooth
