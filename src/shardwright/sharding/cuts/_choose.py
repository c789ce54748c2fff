"""Which functions are cut out of a component: those that may be, whose calls can run at once, and where that pays.

``_select`` has the model. No cut is made below break-even: each makes the predicted run shorter. The same profile, code and
constants give the same cuts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from shardwright.model.cut import Cut
from shardwright.model.ids import ComponentName
from shardwright.model.profile import Context, CostConstants, Measured, MeasuredEdge, Profile, of_tests
from shardwright.model.shard import Diagnostic, Severity, Site
from shardwright.sharding.callgraph import Scanned
from shardwright.sharding.cuts._alone import Alone, Veto
from shardwright.sharding.cuts._around import affordable, leading_on
from shardwright.sharding.cuts._candidates import Callers, Candidate, candidate
from shardwright.sharding.cuts._loops import loops_of
from shardwright.sharding.cuts._made import cut, parted
from shardwright.sharding.cuts._select import Option, Task, select
from shardwright.sharding.hazards import Effects

_HOT = 0.02  # of the run: what takes less is not looked at
_WARM = 0.0005  # of the time in the component, where cuts are made for isolation alone
_WORTH_S, _SHORT_S = 0.001, 20e-6  # or of all calls and of each, where the whole is large
_MOST_NOTES = 40


class Chosen(Struct, frozen=True):
    """The cuts of one component, and a finding for each hot function: why it was cut, or why it was not."""

    cuts: tuple[Cut, ...]
    diagnostics: tuple[Diagnostic, ...]


_judged: list[tuple[Scanned, Effects, tuple[MeasuredEdge, ...], Alone]] = []


def _judge(scanned: Scanned, effects: Effects, profile: Profile) -> Alone:
    """Who answers for all functions; the last one is kept, for plans are made again and again of the same application."""
    for known in _judged:
        if known[0] is scanned and known[1] is effects and known[2] == profile.edges:
            return known[3]
    alone = Alone(scanned, effects, [(edge.caller, edge.callee) for edge in profile.edges])
    _judged[:] = [(scanned, effects, profile.edges, alone)]
    return alone


def candidates(
    scanned: Scanned, effects: Effects, profile: Profile, of: Iterable[str], *, relief: bool = False
) -> tuple[str, ...]:
    """Hot functions of the modules ``of`` that nothing in the code forbids to cut: worth a close look while they run."""
    alone = _judge(scanned, effects, profile)
    modules = frozenset(of)
    found = []
    for item in _hot(profile, modules, relief=relief):
        veto = alone.veto(item.function)
        if item.calls > 1 and (veto is None or veto.soft or (relief and not veto.firm)):
            found.append(item.function)
    return tuple(found)


def _hot(profile: Profile, modules: frozenset[str], *, relief: bool = False) -> list[Measured]:
    own_s = sum(item.own_s for item in profile.functions)  # a test suite has more to do than to run the component
    least = min(_WARM * own_s, _WORTH_S) if relief else _HOT * profile.wall_s
    found = [
        item
        for item in profile.functions
        if (module := item.function.partition(":")[0]) in modules
        and item.total_s >= least
        and (not relief or item.total_s >= _WARM * own_s or item.total_s >= _SHORT_S * item.calls)
        and "<" not in item.function
        and not of_tests(module)
    ]
    return sorted(found, key=lambda item: (-item.total_s, item.function))


def choose(
    component: ComponentName,
    part: ComponentName,
    modules: Iterable[str],
    scanned: Scanned,
    effects: Effects,
    profile: Profile,
    constants: CostConstants,
    *,
    never: Iterable[str] = (),
    relief: bool = False,
    together: Sequence[Sequence[str]] = (),
    apart: Sequence[Sequence[str]] = (),
) -> Chosen:
    """The cuts of a component that owns ``modules``; ``part`` is the name of the shards that they would run in.

    ``never`` names functions that stay; of each set of ``together`` all are cut to one part, or none; of ``apart`` no two are
    cut to one part. Raises PlanError where these contradict each other.

    With ``relief`` cuts are made for isolation alone: whatever may be cut and crosses at less than its own work is, whether or
    not it runs at once; and what analysis alone forbids may be cut if it was run twice, came to the same, and used nothing
    that changes. That is no proof: whoever asks so runs the program's tests.
    """
    kept = frozenset(never)
    alone = _judge(scanned, effects, profile)
    hot = _hot(profile, frozenset(modules), relief=relief)
    loops = loops_of(scanned, {item.function for item in hot})
    callers = Callers(alone, profile)
    notes: list[Diagnostic] = []
    possible: list[Candidate] = []
    for item in hot:
        refusal = _forbidden(item, alone, item.function in kept, relief=relief)
        made = candidate(item, loops.get(item.function, []), callers)
        if refusal is not None:
            reason = f"{refusal.code}: {refusal.evidence}"
            notes.append(_note(component, refusal.site, item, profile, reason, "SW331"))
        elif not relief and not made.ahead_calls:
            reason = "no loop calls it in a way that lets calls run at once; a call that is waited for gains nothing"
            notes.append(_note(component, alone.site(item.function), item, profile, reason, "SW333"))
        elif not item.sampled:
            reason = "its arguments and results were not looked at: profile again"
            notes.append(_note(component, alone.site(item.function), item, profile, reason, "SW337"))
        else:
            doubt = alone.veto(item.function)
            if doubt is not None and not doubt.soft:  # it is to run when it is asked for, and then alone
                made.loops, made.ahead_calls = [], 0
            made.cost_s = constants.call_s(item)
            possible.append(made)
    possible = _whole(possible, together)
    took = (
        _whole(_relieving(possible, profile, constants), together)
        if relief
        else _paying(possible, callers, profile, constants, together)
    )
    for made in possible:
        if made not in took and not made.goes_along:
            reason = (
                f"crossing costs {made.cost_s * 1e3:.1f} ms for {made.measured.calls} calls, more than running at once gains "
                f"({made.gain_s * 1e3:.1f} ms)"
            )
            where = alone.site(made.measured.function)
            notes.append(_note(component, where, made.measured, profile, reason, "SW332"))
    notes = notes if relief else notes[:_MOST_NOTES]
    if not took:
        return Chosen((), tuple(notes))
    predicted = _task(took, callers, profile, constants).predicted_s(range(len(took)))
    whole_s = sum(made.gain_s for made in took) or 1.0
    cuts = []
    for number, members in enumerate(parted(took, callers, together, apart), 1):
        name = part if number == 1 else ComponentName(f"{part}{number}")
        whole = cut(component, name, members, alone, constants)
        gains = {made.measured.function: made.gain_s for made in members}
        share = sum(gains.values()) / whole_s
        cuts.append(
            replace(
                whole, gain_s=(profile.wall_s - predicted) * share, predicted_s=predicted,
                gains_s=tuple(gains[function.id] for function in whole.functions),
            )
        )  # fmt: skip
    homes = {function.id: each.part for each in cuts for function in each.functions}
    for made in sorted(took, key=lambda item: (-item.gain_s, item.measured.function)):
        item = made.measured
        notes.append(
            Diagnostic(
                "SW330", Severity.NOTE,
                f"{item.function} runs in shards of {homes[item.function]}: {item.calls} calls, "
                f"{item.total_s:.3f} s of {profile.wall_s:.3f} s, "
                f"{item.bytes_per_call:,.0f} bytes a call; crossing costs {made.cost_s:.4f} s, running at once gains "
                f"{made.gain_s:.3f} s",
                alone.site(item.function), component, "name it in `never_cut` to keep it",
            )
        )  # fmt: skip
    return Chosen(tuple(cuts), tuple(notes))


def _forbidden(item: Measured, alone: Alone, kept: bool, *, relief: bool) -> Veto | None:
    """Why a function stays, whatever it would gain."""
    if kept:
        return Veto("SW331", alone.site(item.function), f"{item.function} is listed in `never_cut`", firm=True)
    veto = alone.veto(item.function)
    if veto is not None and item.sampled and (veto.soft or (relief and item.shadowed and not veto.firm)):
        veto = None  # it was looked at, and what it uses of modules stayed as it was
    if veto is None and item.veto:
        veto = Veto("SW337", alone.site(item.function), f"{item.function}: {item.veto}")
    return veto


def _relieving(possible: list[Candidate], profile: Profile, constants: CostConstants) -> list[Candidate]:
    """Whose work is worth the way, as calls were made within each other."""
    contexts = profile.contexts or tuple(
        Context(made.measured.function, -1, made.measured.calls, made.measured.total_s) for made in possible
    )
    hubs = leading_on(profile)
    seen = {m.measured.function: m for m in possible if m.measured.function not in hubs and not m.measured.short}
    found = affordable(
        contexts,
        {name: constants.call_s(made.measured) / made.measured.calls for name, made in seen.items()},
        {name: made.measured.total_s / made.measured.calls for name, made in seen.items()},
        {name for name, made in seen.items() if made.measured.streams},
    )
    for name, crosses in found.items():
        seen[name].gain_s = crosses.moved_s
        seen[name].cost_s = crosses.calls * constants.call_s(seen[name].measured) / seen[name].measured.calls
    return [made for made in possible if made.measured.function in found]


def _paying(
    possible: list[Candidate],
    callers: Callers,
    profile: Profile,
    constants: CostConstants,
    together: Sequence[Sequence[str]],
) -> list[Candidate]:
    """What makes the run shortest, as far as the model tells; each with what the run takes longer without it."""
    names = {made.measured.function: number for number, made in enumerate(possible)}
    groups = tuple(frozenset(names[name] for name in group if name in names) for group in together)
    task = replace(_task(possible, callers, profile, constants), together=groups)
    numbers = select(task)
    crossing = task.crossing(numbers)
    whole_s = task.predicted_s(numbers)
    for number, made in enumerate(possible):
        made.goes_along = bool(task.options[number].within & frozenset(numbers))
        if number in numbers:
            made.gain_s = task.predicted_s([other for other in numbers if other != number]) - whole_s
        else:
            made.gain_s = whole_s - task.predicted_s([*numbers, number])
    return [possible[number] for number in crossing]


def _whole(possible: list[Candidate], together: Sequence[Sequence[str]]) -> list[Candidate]:
    """Without those that are to go with one that stays."""
    while True:
        there = {made.measured.function for made in possible}
        broken = {name for group in together if not there.issuperset(group) for name in group}
        left = [made for made in possible if made.measured.function not in broken]
        if len(left) == len(possible):
            return left
        possible = left


def _task(possible: Sequence[Candidate], callers: Callers, profile: Profile, constants: CostConstants) -> Task:
    options = []
    for made in possible:
        within = (number for number, other in enumerate(possible) if callers.all_within(made, other))
        options.append(
            Option(made.measured.total_s, made.ahead_calls / made.measured.calls, made.cost_s, frozenset(within))
        )
    return Task(tuple(options), profile.wall_s, constants)


def _note(component: ComponentName, site: Site, item: Measured, profile: Profile, reason: str, code: str) -> Diagnostic:
    share = item.total_s / profile.wall_s if profile.wall_s else 0.0
    return Diagnostic(
        code, Severity.NOTE, f"{item.function} ({share:.0%} of the run, {item.calls} calls) is not cut: {reason}", site,
        component,
        "see `shardwright explain`",
    )  # fmt: skip
