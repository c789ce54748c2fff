"""Which cuts are made together: twenty small programs, beside every combination of their cuts."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from random import Random

import pytest

from shardwright.model.profile import CostConstants
from shardwright.sharding.cuts._select import Option, Task, select

SEEDS = range(20)
MOST = 12
CONSTANTS = CostConstants(round_trip_s=40e-6, byte_s=1e-9, fork_s=0.02, cores=2)


def task(seed: int) -> Task:
    """A program of 3 to 12 functions: some large, some dear to reach, some called by others alone."""
    chance = Random(f"cuts of small programs {seed}")
    size = 3 + seed % (MOST - 2)
    options = []
    for number in range(size):
        total_s = 2.0 * chance.random() ** 3 + 0.002
        dear = chance.choice((0.01, 0.05, 0.3, 1.5))
        within = frozenset(item for item in range(number) if chance.random() < 0.15)
        options.append(Option(total_s, chance.choice((0.0, 0.5, 1.0, 1.0, 1.0)), total_s * dear, within))
    rest_s = chance.choice((0.05, 0.5, 3.0))
    constants = CostConstants(40e-6, 1e-9, 0.02, chance.choice((2, 2, 4, 16)))
    together = (frozenset(chance.sample(range(size), 2)),) if chance.random() < 0.3 else ()
    outer_s = sum(option.total_s for option in options if not option.within)
    return Task(tuple(options), outer_s + rest_s, constants, together)


def allowed(made: Task, chosen: tuple[int, ...]) -> bool:
    return all(group <= set(chosen) or not group & set(chosen) for group in made.together)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_search_comes_within_a_tenth_of_the_best_of_all_combinations(
    seed: int, record_exercised: Callable[[str, int], None]
) -> None:
    made = task(seed)
    numbers = range(len(made.options))
    subsets = [item for size in range(len(numbers) + 1) for item in combinations(numbers, size) if allowed(made, item)]
    best_s = min(made.predicted_s(subset) for subset in subsets)
    found = select(made, exact=0)  # by search alone, as for many functions
    assert allowed(made, found)
    assert made.predicted_s(found) <= 1.1 * best_s
    assert made.predicted_s(select(made)) <= 1.1 * best_s
    record_exercised("combinations of cuts", len(subsets))


@pytest.mark.parametrize("seed", SEEDS)
def test_no_cut_is_below_break_even_and_the_same_is_chosen_again(seed: int) -> None:
    made = task(seed)
    found = select(made, exact=0)
    assert found == select(made, exact=0)
    if found:
        assert made.predicted_s(found) < made.run_s
    units = [tuple(sorted(group)) for group in made.together if group <= set(found)]
    for unit in [*units, *((number,) for number in found if not any(number in group for group in made.together))]:
        without = [number for number in found if number not in unit]
        assert made.predicted_s(without) > made.predicted_s(found), unit


def test_nothing_is_cut_where_nothing_pays() -> None:
    dear = Option(total_s=0.1, ahead=1.0, cost_s=1.0)
    waits = Option(total_s=1.0, ahead=0.0, cost_s=0.001)
    assert select(Task((dear, waits), 1.2, CONSTANTS)) == ()
    assert select(Task((), 1.0, CONSTANTS)) == ()


def test_what_goes_along_with_another_costs_nothing() -> None:
    outer = Option(total_s=1.0, ahead=1.0, cost_s=0.01)
    inner = Option(total_s=0.8, ahead=1.0, cost_s=0.3, within=frozenset({0}))
    made = Task((outer, inner), 1.1, CONSTANTS)
    assert select(made) == (0,)
    assert made.crossing((0, 1)) == [0]


def test_cores_that_do_less_together_than_each_alone_are_counted_so() -> None:
    at = [CostConstants(1e-6, 0.0, 0.0, 2, at_once=measured).parallel for measured in (0.0, 1.9, 2.3, 1.1)]
    assert at == [2.0, 1.9, 2.0, 1.5], "unmeasured, measured, more than there are, a moment's load"
    assert CostConstants(1e-6, 0.0, 0.0, 1, at_once=0.4).parallel == 1.0
    made = Task((Option(total_s=1.0, ahead=1.0, cost_s=0.0),), 1.0, CostConstants(1e-6, 0.0, 0.0, 2, at_once=1.6))
    assert made.predicted_s((0,)) == pytest.approx(1.0 / 1.6)
