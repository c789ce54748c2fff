"""What ``verify`` found, and how it is told: counts of calls, shares of work, and why the rest stays."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import click
from msgspec import Struct, field

from shardwright.model.profile import Profile, of_tests
from shardwright.model.shard import ShardPlan

LEAST_SHARE = 0.05  # of the components' own work: where less than this could leave, a cut is not worth its name
_REFUSALS = ("SW331", "SW332", "SW333", "SW337")
_REASONS = 12


class Verified(Struct):
    """What ``verify`` found. ``functions`` are those of the final plan, with what became of their calls.

    ``twice`` is how many calls parts ran that nobody asked for, and that were not begun ahead. ``parts_cpu_share`` is of the
    processes of the last run. ``outside_share`` is of what the components' own code takes, tests aside: by how many calls
    fewer of each function the process of the command made than uncut. ``movable_share`` is what the functions that may
    be cut take of it, as profiled uncut.
    """

    equivalent: bool = False
    worth: bool = True
    shards: int = 0
    tests: int = 0
    rounds: int = 0
    functions: dict[str, dict[str, Any]] = field(default_factory=dict)
    kept_together: dict[str, str] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    unsteady: list[str] = field(default_factory=list)  # tests that come out otherwise uncut, too
    refused: list[str] = field(default_factory=list)  # hot functions that the plan does not cut, with the reason
    reasons: list[str] = field(default_factory=list)  # what keeps how much of the work where it is
    calls: int = 0
    remote: int = 0
    local: int = 0
    uncut: int = 0
    twice: int = 0
    parts_cpu_share: float = 0.0
    outside_share: float = 0.0
    movable_share: float = 0.0
    uncut_s: float = 0.0
    cut_s: float = 0.0
    took_s: float = 0.0

    @property
    def remote_share(self) -> float:
        return self.remote / self.calls if self.calls else 0.0

    def note(self, made: ShardPlan, profile: Profile) -> None:
        """Why what is not cut is not, and what share of the work could leave."""
        refusals = [each for each in made.diagnostics if each.code in _REFUSALS]
        self.refused = [f"{each.site}: {each.message}" for each in refusals]
        self.movable_share = min(1.0, sum(sum(cut.gains_s) for cut in made.cuts) / (profile.inside_s or 1.0))
        self.reasons = list(_reasons(profile, (each.message for each in refusals)))

    def tell(self) -> None:
        """As text, to standard output."""
        if not self.worth:
            click.echo(
                f"not worth cutting: what may be cut takes {self.movable_share:.1%} of the components' time, and "
                f"{LEAST_SHARE:.0%} are asked for"
            )
        elif not self.calls:
            click.echo(
                "nothing to cut: " + ("every cut changed something" if self.kept_together else "nothing may be cut")
            )
        else:
            click.echo(
                f"{'equivalent' if self.equivalent else 'NOT equivalent'}: {len(self.functions)} functions cut, "
                f"{self.shards} shards, {self.calls} calls, {self.remote} elsewhere ({self.remote_share:.1%}), "
                f"{self.local} here, {self.uncut} un-cut, {self.twice} twice; {self.tests} tests compared; "
                f"{self.outside_share:.0%} of the components' own work is done elsewhere"
            )
            for name, item in sorted(self.functions.items(), key=lambda pair: -pair[1]["calls"]):
                click.echo(f"  {name}: {item['calls']} calls, {item['remote']} elsewhere")
        for name, why in self.kept_together.items():
            click.echo(f"  kept together: {name}: {why}")
        for name in self.unsteady:
            click.echo(f"  unsteady, and so not compared: {name}: it comes out as cut without any cut as well")
        for line in self.reasons:
            click.echo(f"  stays: {line}")
        for line in self.refused[:12]:
            click.echo(f"  not cut: {line}")


def outside(profile: Profile, uncut: Mapping[str, int], stayed: Mapping[str, int]) -> float:
    """The share of the components' own work that was done elsewhere. ``stayed``: the calls of each function that were not,
    of ``uncut`` as many without a cut.

    Calls are exact in both runs, and of the same tests; seconds are of the profile: how busy the machine was does not show.
    """
    counted = [item for item in profile.functions if uncut.get(item.function) and not of_tests(item.function)]
    whole_s = sum(item.own_s for item in counted)
    left_s = sum(item.own_s * min(1.0, stayed.get(item.function, 0) / uncut[item.function]) for item in counted)
    return 1.0 - left_s / whole_s if whole_s else 0.0


def _reasons(profile: Profile, messages: Iterable[str]) -> Iterable[str]:
    """Reasons by the work that they keep where it is, with a function for each."""
    whole_s = sum(item.own_s for item in profile.functions if not of_tests(item.function)) or 1.0
    known = {item.function: item.own_s for item in profile.functions}
    kept: dict[str, list[tuple[float, str]]] = {}
    for message in messages:
        name = message.partition(" ")[0]
        why = message.partition(" is not cut: ")[2].removeprefix("SW337: ").removeprefix(f"{name}: ")
        kind = re.sub(r"(?<![A-Z\d])\d+", "N", why.partition(";")[0].partition(", which")[0])
        kind = re.sub(r"[\w.]+:[\w.<>]+ ", "", kind)[:110]
        kept.setdefault(kind, []).append((known.get(name, 0.0), name))
    ranked = sorted(kept.items(), key=lambda pair: -sum(own_s for own_s, _ in pair[1]))
    for kind, functions in ranked[:_REASONS]:
        share = sum(own_s for own_s, _ in functions) / whole_s
        yield f"{share:.1%} of their own work, {len(functions)} functions, as {max(functions)[1]}: {kind}"
