"""Limits turn round seldom, whatever demand does and however late it is seen; and a controller that flaps is found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shardwright.controller import CPU, LimitParams, decide_limits, new_state

PARAMS = LimitParams(calm_s=30.0, rest_s=5.0)
FLAPPING = LimitParams(calm_s=0.0, rest_s=0.0, deadband=0.0, sink=1.0)
CORES, TICKS = 8.0, 300
FEW = settings(max_examples=40, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
KINDS = ("step", "sine", "burst", "adversarial")


def wanted(kind: str, period: int, size: float, generator: np.random.Generator) -> np.ndarray:
    time = np.arange(TICKS)
    if kind == "step":
        return np.where(time // max(period * 4, 20) % 2, size, 0.2)
    if kind == "sine":
        return size * (1 + np.sin(2 * np.pi * time / max(period * 4, 8))) / 2
    if kind == "burst":
        return np.where(generator.random(TICKS) < 0.05, size, 0.2)
    assert kind == "adversarial"
    return np.full(TICKS, size)


def answer(demand: float, given_cpu: float, size: float) -> float:
    """Asks for all as soon as it was given less than that, and for hardly anything as soon as it has it."""
    return demand if given_cpu < size else 0.05


def reversals(kind: str, period: int, size: float, dead: int, seed: int, params: LimitParams) -> int:
    """How often the guarantee turned round, when it is decided from what was measured ``dead`` ticks ago."""
    generator = np.random.default_rng(seed)
    demand = wanted(kind, period, size, generator) * generator.lognormal(0, 0.05, TICKS)
    node = np.zeros(1, dtype=np.int64)
    state = new_state(node, np.array([[0.1, 0.1]]), np.array([[CORES, 4.0]]))
    given_cpu = []
    for tick in range(TICKS):
        if kind == "adversarial":
            demand[tick] = answer(demand[tick], state.guarantee[0, CPU], size)
        seen = demand[max(0, tick - dead)]
        usage = np.array([[min(seen, CORES), 0.05]])
        state = replace(state, usage=usage, lacked=np.zeros((1, 2)), measured_s=np.array([float(tick)]))
        state = decide_limits(state, np.array([[CORES, 4.0]]), float(tick), params).state
        given_cpu.append(state.guarantee[0, CPU])
    moves = np.sign(np.diff(given_cpu))
    moves = moves[moves != 0]
    return int((moves[1:] != moves[:-1]).sum())


def permitted(params: LimitParams) -> int:
    """It sinks only after a calm, and so turns round at most twice in each."""
    return 2 * int(TICKS / max(params.calm_s, 30.0)) + 2


CASES = given(
    kind=st.sampled_from(KINDS),
    period=st.integers(1, 20),
    size=st.floats(0.5, 7.5),
    dead=st.integers(0, 8),
    seed=st.integers(0, 1000),
)


def test_any_demand_turns_it_round_seldom(record_exercised: Callable[[str, int], None]) -> None:
    seen = []

    @FEW
    @CASES
    def check(kind: str, period: int, size: float, dead: int, seed: int) -> None:
        seen.append(reversals(kind, period, size, dead, seed, PARAMS))
        assert seen[-1] <= permitted(PARAMS)

    check()
    record_exercised("demands", len(seen))


def test_a_controller_that_flaps_is_found() -> None:
    @FEW
    @CASES
    def check(kind: str, period: int, size: float, dead: int, seed: int) -> None:
        assert reversals(kind, period, size, dead, seed, FLAPPING) <= permitted(PARAMS)

    with pytest.raises(AssertionError):
        check()
