"""What crosses when some functions are cut: of each only the calls that no other cut function is around.

A run that was looked at tells within which other functions each was called, so this is counted and not concluded from who
may call whom: behind a decorator that leads to everything, nothing could be.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct

from shardwright.model.profile import Context, Profile

_CHEAP_S = 0.2  # what all calls of a function may cost although they cost more than they do
_LEADS_ON, _ITSELF = 32, 0.05  # who calls so many, and does so little itself, is no point to cut at: each of those is
_STEP = 0.1  # of those that are too dear, so many are let go before it is counted again


class Crossing(Struct, frozen=True):
    """Calls that would cross, and the seconds of work that go with them."""

    calls: int = 0
    moved_s: float = 0.0


def crossing(contexts: Sequence[Context], cut: Collection[str]) -> dict[str, Crossing]:
    """Of each function of ``cut``: what crosses if exactly these are cut."""
    found = dict.fromkeys(cut, Crossing())
    covered = [False] * len(contexts)
    for number, context in enumerate(contexts):
        around = context.within >= 0 and covered[context.within]
        mine = context.function in found
        covered[number] = around or mine
        if mine and not around:
            known = found[context.function]
            found[context.function] = Crossing(known.calls + context.calls, known.moved_s + context.total_s)
    return found


def affordable(
    contexts: Sequence[Context], call_s: Mapping[str, float], mean_s: Mapping[str, float], streams: Collection[str]
) -> dict[str, Crossing]:
    """Of functions with these costs of a call, those that are worth crossing for: their work takes longer than the way.

    ``mean_s`` is what a call takes; it stands for the work of those that ``streams`` names, which is done after the call. Those
    that cost most for what they do are let go first, for what they call may then cross by itself. Of a function that is
    only called within others nothing crosses; it stays in if one call is worth the way.
    """
    left = set(call_s)
    while True:
        found = crossing(contexts, left)
        dear = []
        for name in left:
            calls, moved_s = found[name].calls, found[name].moved_s
            if name in streams:
                moved_s = calls * mean_s[name]
                found[name] = Crossing(calls, moved_s)
            cost_s = calls * call_s[name]
            if cost_s > max(_CHEAP_S, moved_s) or (not calls and call_s[name] > mean_s[name]):
                dear.append((-cost_s / (moved_s or 1e-9) if calls else 0.0, name))
        if not dear:
            return found
        dear.sort()
        left.difference_update(name for _, name in dear[: max(1, int(_STEP * len(dear)))])


def leading_on(profile: Profile) -> frozenset[str]:
    """Functions that hand calls on to many others and do next to nothing themselves, as dispatchers do."""
    callees: dict[str, set[str]] = {}
    for edge in profile.edges:
        callees.setdefault(edge.caller, set()).add(edge.callee)
    return frozenset(
        item.function
        for item in profile.functions
        if len(callees.get(item.function, ())) >= _LEADS_ON and item.own_s < _ITSELF * item.total_s
    )
