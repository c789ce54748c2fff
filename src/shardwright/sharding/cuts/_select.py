"""Which of the functions that may be cut are cut: the selection with the shortest predicted run.

The model: a program takes ``total`` seconds, of which ``moved`` are in cut functions; crossing costs ``cost``. What runs ahead
runs beside the program, on at most ``cores`` cores, so the run cannot end before the work is done, nor before what
stays has run: ``max((total + cost) / parallel, total - moved + sending)``, where ``parallel`` is what the cores of this machine
do together, by the work of one. A call that does not run ahead is waited for: it
gains nothing, and costs its crossing. A function that only other cut functions call goes where they go, and costs nothing.

Few functions are tried in every combination; of many, the best of greedy selections is improved by exchanging one or two
until nothing gets better. Equal input gives equal output.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from msgspec import Struct

from shardwright.model.profile import CostConstants

SENDING = 0.5  # of the cost of crossing falls to the caller
EXACT = 10  # so many functions are tried in every combination
_LEAST = 1e-5  # of the run: a gain smaller than that is none


class Option(Struct, frozen=True):
    """A function that may be cut: seconds of all its calls, the share of them that can run ahead, what crossing costs.

    ``within`` numbers the options of which each, when it is cut, takes all calls of this one along.
    """

    total_s: float
    ahead: float
    cost_s: float
    within: frozenset[int] = frozenset()


class Task(Struct, frozen=True):
    """``run_s`` is what the run takes uncut. ``together``: options of which all are cut, or none."""

    options: tuple[Option, ...]
    run_s: float
    constants: CostConstants
    together: tuple[frozenset[int], ...] = ()

    def crossing(self, chosen: Sequence[int]) -> list[int]:
        """Those of them whose calls cross: not those that go along with others."""
        cut = frozenset(chosen)
        return [number for number in chosen if not self.options[number].within & cut]

    def predicted_s(self, chosen: Sequence[int]) -> float:
        """What the run takes with these cut."""
        if not chosen:
            return self.run_s
        moved = cost = waited = 0.0
        for number in self.crossing(chosen):
            option = self.options[number]
            moved += option.total_s * option.ahead
            cost += option.cost_s
            waited += option.cost_s * (1.0 - option.ahead)
        stays = self.run_s - moved + SENDING * (cost - waited) + waited
        return self.constants.fork_s + max((self.run_s + cost) / self.constants.parallel, stays)


def select(task: Task, *, exact: int = EXACT) -> tuple[int, ...]:
    """The options to cut, in order; none where nothing pays. Each of them pays: without it the run would take longer."""
    units = _units(task)
    if len(units) <= exact:
        tried = [subset for size in range(len(units) + 1) for subset in combinations(range(len(units)), size)]
        best = min(tried, key=lambda subset: (round(task.predicted_s(_flat(units, subset)), 9), len(subset), subset))
    else:
        best = min(
            (_searched(task, units, start) for start in _starts(task, units)), key=lambda s: _worth(task, units, s)
        )
    chosen = _without_idle(task, units, best)
    numbers = _flat(units, chosen)
    return tuple(numbers) if task.predicted_s(numbers) < task.run_s else ()


def _units(task: Task) -> list[tuple[int, ...]]:
    """Options by what must go together."""
    left = set(range(len(task.options)))
    found = []
    for group in task.together:
        mine = sorted(group & left)
        if mine:
            found.append(tuple(mine))
            left -= group
    return sorted([*found, *((number,) for number in left)])


def _flat(units: Sequence[tuple[int, ...]], chosen: Sequence[int]) -> list[int]:
    return sorted(number for unit in chosen for number in units[unit])


def _worth(task: Task, units: Sequence[tuple[int, ...]], chosen: Sequence[int]) -> tuple[float, int, tuple[int, ...]]:
    return round(task.predicted_s(_flat(units, chosen)), 9), len(chosen), tuple(chosen)


def _starts(task: Task, units: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Nothing, everything, and what is worth it by itself, dearest work first."""
    everything = tuple(range(len(units)))
    alone = tuple(number for number in everything if task.predicted_s(units[number]) < task.run_s)
    outer = tuple(number for number in alone if not any(task.options[item].within for item in units[number]))
    return [(), everything, alone, outer]


def _searched(task: Task, units: Sequence[tuple[int, ...]], start: tuple[int, ...]) -> tuple[int, ...]:
    """Change one, then exchange two, as long as that makes the run shorter."""
    best, worth = start, _worth(task, units, start)
    while True:
        chosen = frozenset(best)
        near = [chosen ^ {number} for number in range(len(units))]
        near += [chosen ^ {out, new} for out in chosen for new in range(len(units)) if new not in chosen]
        following = min(
            (tuple(sorted(item)) for item in near), key=lambda item: _worth(task, units, item), default=best
        )
        found = _worth(task, units, following)
        if found >= worth:
            return best
        best, worth = following, found


def _without_idle(task: Task, units: Sequence[tuple[int, ...]], chosen: Sequence[int]) -> list[int]:
    """Take out what does not make the run shorter, least first."""
    left = list(chosen)
    while left:
        whole = task.predicted_s(_flat(units, left))
        gains = [
            (task.predicted_s(_flat(units, [item for item in left if item != number])) - whole, number)
            for number in left
        ]
        least, number = min(gains)
        if least > _LEAST * task.run_s:
            return left
        left.remove(number)
    return left
