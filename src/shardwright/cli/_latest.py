"""What became of the cut functions' calls in the latest run of each test, once everything was run.

When a function is kept from then on, the tests that called it elsewhere are run again. The others run as before: what they
called elsewhere is still cut, and nothing is cut that was not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

from shardwright.cli._profile import Ran
from shardwright.cli._verified import outside
from shardwright.model.profile import Profile

_PER_TEST = ("calls", "remote", "local")


class Latest:
    """Begins with a run of everything."""

    def __init__(self, complete: Ran) -> None:
        self.complete = complete
        self.twice = 0
        self.functions = functions_of(complete)  # all that were cut in it
        self._first = {test: used for answer in complete.answers for test, used in answer.get("used", {}).items()}
        self._of = dict(self._first)
        self._count_twice(complete)

    def note(self, again: Ran) -> None:
        """Tests were run again, with fewer functions cut."""
        for answer in again.answers:
            for test in answer.get("outcomes", {}):
                self._of[test] = {}
        for answer in again.answers:
            self._of.update(answer.get("used", {}))
        self._count_twice(again)

    def users(self, functions: Collection[str]) -> set[str]:
        """The tests that called one of them elsewhere, or would have."""
        return {test for test, used in self._of.items() if any(each in functions for each in used)}

    def counts(self, without: Collection[str]) -> dict[str, dict[str, Any]]:
        """Of each function that is still cut: what became of its calls, in and out of tests."""
        found = {name: dict(item) for name, item in self.functions.items() if name not in without}
        for sign, tests in ((-1, self._first), (1, self._of)):
            for used in tests.values():
                for name, numbers in used.items():
                    if name in found:
                        for field, number in zip(_PER_TEST, numbers, strict=True):
                            found[name][field] += sign * number
        return {name: item for name, item in found.items() if item["calls"]}

    def outside_share(self, profile: Profile, uncut: Ran, without: Collection[str]) -> float:
        """The share of the components' own work that was done elsewhere, less what has been kept since everything was run.

        Of many tests, some were counted: the same in the ``uncut`` run.
        """
        stayed = counted_calls(self.complete)
        if not stayed:
            return 0.0
        measured = {item.function: item for item in profile.functions}
        some = frozenset(test for answer in self.complete.answers for test in answer.get("counted", ()))
        back: Counter[str] = Counter()
        for test, used in self._first.items():
            if not some or test in some:
                back.update({name: numbers[_PER_TEST.index("remote")] for name, numbers in used.items()})
        back_s = sum(
            remote * measured[name].total_s / measured[name].calls
            for name, remote in back.items()
            if name in without and name in measured and measured[name].calls
        )
        share = outside(profile, counted_calls(uncut), stayed)
        return float(max(0.0, share - back_s / (profile.inside_s or 1.0)))

    def _count_twice(self, ran: Ran) -> None:
        known = sum(
            item["remote"] + item["failed"] + item["begun"] - item["ahead"] for item in functions_of(ran).values()
        )
        received = sum(answer.get("received", 0) for answer in ran.answers)
        self.twice += max(0, received - known)


def counted_calls(ran: Ran) -> Counter[str]:
    """How often the process of the command called each function of the components, in what was counted."""
    found: Counter[str] = Counter()
    for answer in ran.answers:
        found.update(answer.get("counts", {}))
    return found


def functions_of(ran: Ran) -> dict[str, Any]:
    """The cut functions of a run, with what became of their calls."""
    return {name: item for answer in ran.answers for name, item in answer.get("functions", {}).items()}
