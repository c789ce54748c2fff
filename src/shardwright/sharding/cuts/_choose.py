"""Which functions are cut out of a component: those that may be, whose calls can run at once, and where that pays.

The model: a program takes ``total`` seconds, of which ``moved`` are in cut functions; crossing costs ``cost``. What runs ahead
runs beside the program, on at most ``cores`` cores, so the run cannot end before the work is done, nor before what
stays has run: ``max((total + cost) / cores, total - moved + sending)``. A call that does not run ahead is waited for: it
gains nothing, and costs its crossing. No cut is made below break-even. The same profile, code and constants give the
same cuts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shardwright.errors import PlanError
from shardwright.model.cut import CostConstants, Cut, CutFunction, Loop, Measured, Profile, of_tests
from shardwright.model.ids import ComponentName, MethodId
from shardwright.model.shard import Diagnostic, Severity, Site
from shardwright.sharding.callgraph import Scanned
from shardwright.sharding.cuts._alone import Alone, Veto
from shardwright.sharding.cuts._loops import loops_of
from shardwright.sharding.hazards import Effects
from shardwright.sharding.hazards._table import RULES

_HOT = 0.02  # of the run: what takes less is not looked at
_WARM = 0.0005  # of the time in the component, where cuts are made for isolation alone
_DEAR_S = 3.0  # what crossing may cost in all where it is asked for
_SENDING = 0.5  # of the cost of crossing falls to the caller
_MOST_SHARDS = 16
_MOST_NOTES = 40


@dataclass(frozen=True, slots=True)
class Chosen:
    """The cuts of one component, and a finding for each hot function: why it was cut, or why it was not."""

    cuts: tuple[Cut, ...]
    diagnostics: tuple[Diagnostic, ...]


@dataclass(slots=True)
class _Candidate:
    measured: Measured
    ahead_calls: int
    loops: list[tuple[str, Loop]]
    cost_s: float = 0.0
    gain_s: float = 0.0


def candidates(
    scanned: Scanned, effects: Effects, profile: Profile, of: Iterable[str], *, relief: bool = False
) -> tuple[str, ...]:
    """Hot functions of the modules ``of`` that nothing in the code forbids to cut: worth a close look while they run."""
    alone = Alone(scanned, effects, [(edge.caller, edge.callee) for edge in profile.edges])
    modules = frozenset(of)
    found = []
    for item in _hot(profile, modules, relief=relief):
        veto = alone.veto(item.function)
        if item.calls > 1 and (veto is None or veto.soft or (relief and not veto.firm)):
            found.append(item.function)
    return tuple(found)


def _hot(profile: Profile, modules: frozenset[str], *, relief: bool = False) -> list[Measured]:
    own_s = sum(item.own_s for item in profile.functions)  # a test suite has more to do than to run the component
    least = _WARM * own_s if relief else _HOT * profile.wall_s
    found = [
        item
        for item in profile.functions
        if (module := item.function.partition(":")[0]) in modules
        and item.total_s >= least
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
) -> Chosen:
    """The cuts of a component that owns ``modules``; ``part`` is the name of the shards that they would run in.

    ``never`` names functions that stay. With ``relief`` cuts are made for isolation alone: whatever may be cut and crosses
    at less than its own work is, whether or not it runs at once.
    """
    alone = Alone(scanned, effects, [(edge.caller, edge.callee) for edge in profile.edges])
    notes: list[Diagnostic] = []
    owned, kept = frozenset(modules), frozenset(never)
    hot = _hot(profile, owned, relief=relief)
    loops = loops_of(scanned, {item.function for item in hot})
    chosen: list[_Candidate] = []
    for item in hot:
        name = item.function
        veto = (
            Veto("SW331", alone.site(name), f"{name} is listed in `never_cut`", firm=True)
            if name in kept
            else alone.veto(name)
        )
        if veto is not None and item.sampled and (veto.soft or (relief and item.shadowed and not veto.firm)):
            veto = None  # it was looked at, and what it uses of modules stayed as it was
        if veto is None and item.veto:
            veto = Veto("SW337", alone.site(name), f"{name}: {item.veto}")
        if veto is not None:
            notes.append(_note(component, veto.site, item, profile, f"{veto.code}: {veto.evidence}", "SW331"))
            continue
        over = [other for other in chosen if name in alone.reach(other.measured.function)]
        callers = {edge.caller for edge in profile.edges if edge.callee == name and edge.calls}
        if over and callers and all(_within(alone, over, caller) for caller in callers):
            continue  # it goes where its callers go
        made = _candidate(item, loops.get(name, []), profile)
        if not relief and not made.ahead_calls:
            reason = "no loop calls it in a way that lets calls run at once; a call that is waited for gains nothing"
            notes.append(_note(component, alone.site(name), item, profile, reason, "SW333"))
            continue
        if not item.sampled:
            reason = "its arguments and results were not looked at: profile again"
            notes.append(_note(component, alone.site(name), item, profile, reason, "SW337"))
            continue
        made.cost_s = constants.call_s(item)
        made.gain_s = (
            item.total_s
            if relief
            else _gain_s([*chosen, made], profile, constants) - _gain_s(chosen, profile, constants)
        )
        dear = (
            made.cost_s > max(_DEAR_S, item.total_s) if relief else made.gain_s <= (0.0 if chosen else constants.fork_s)
        )
        if dear:
            reason = (
                f"crossing costs {made.cost_s * 1e3:.1f} ms for {item.calls} calls, more than running at once gains "
                f"({made.gain_s * 1e3:.1f} ms)"
            )
            notes.append(_note(component, alone.site(name), item, profile, reason, "SW332"))
            continue
        chosen.append(made)
    notes = notes[:_MOST_NOTES]
    if not chosen:
        return Chosen((), tuple(notes))
    cut = _cut(component, part, chosen, alone, profile, constants)
    for made in sorted(chosen, key=lambda item: -item.gain_s):
        item = made.measured
        notes.append(
            Diagnostic(
                "SW330", Severity.NOTE,
                f"{item.function} runs in shards of {part}: {item.calls} calls, "
                f"{item.total_s:.3f} s of {profile.wall_s:.3f} s, "
                f"{item.bytes_per_call:,.0f} bytes a call; crossing costs {made.cost_s:.4f} s, running at once gains "
                f"{made.gain_s:.3f} s",
                alone.site(item.function), component, "name it in `never_cut` to keep it",
            )
        )  # fmt: skip
    return Chosen((cut,), tuple(notes))


def _within(alone: Alone, over: list[_Candidate], caller: str) -> bool:
    return any(caller in alone.reach(other.measured.function) for other in over)


def _candidate(item: Measured, loops: list[tuple[str, Loop]], profile: Profile) -> _Candidate:
    holders = {holder for holder, _ in loops}
    calls = sum(edge.calls for edge in profile.edges if edge.callee == item.function and edge.caller in holders)
    return _Candidate(item, min(calls, item.calls), loops)


def _gain_s(chosen: list[_Candidate], profile: Profile, constants: CostConstants) -> float:
    """Seconds that a run is shorter by."""
    if not chosen:
        return 0.0
    moved = sum(made.measured.total_s * made.ahead_calls / made.measured.calls for made in chosen)
    cost = sum(made.cost_s for made in chosen)
    total = profile.wall_s
    # what is waited for stays on the way of the program, with all of its crossing
    waited = sum(
        (made.measured.calls - made.ahead_calls) / made.measured.calls * made.cost_s
        for made in chosen
        if made.measured.calls
    )
    stays = total - moved + _SENDING * (cost - waited) + waited
    return total - max((total + cost) / max(1, constants.cores), stays)


def _note(component: ComponentName, site: Site, item: Measured, profile: Profile, reason: str, code: str) -> Diagnostic:
    share = item.total_s / profile.wall_s if profile.wall_s else 0.0
    return Diagnostic(
        code, Severity.NOTE, f"{item.function} ({share:.0%} of the run, {item.calls} calls) is not cut: {reason}", site,
        component,
        "see `shardwright explain`",
    )  # fmt: skip


def forced(
    component: ComponentName,
    part: ComponentName,
    names: Iterable[str],
    scanned: Scanned,
    effects: Effects,
    *,
    shards: int,
) -> Cut:
    """A cut at these functions, whatever it costs. Raises PlanError for what must not be cut."""
    alone = Alone(scanned, effects)
    wanted = sorted(names)
    functions = []
    for number, name in enumerate(wanted):
        veto = alone.veto(name)
        if veto is not None:
            raise PlanError(
                f"{veto.site}: {name} is not cut: {veto.evidence}", code=veto.code, remedy=_remedy(veto.code)
            )
        module, _, qualname = name.partition(":")
        functions.append(CutFunction(module, qualname, alone.code_line(name), MethodId(number)))
    found = loops_of(scanned, set(wanted))
    places = {(loop.module, loop.line, loop.column): loop for loops in found.values() for _, loop in loops}
    loops = tuple(places[key] for key in sorted(places))
    return Cut(
        component,
        part,
        tuple(functions),
        loops,
        shards,
        2 * shards + 2,
        0,
        0.0,
        0,
        0.0,
        0.0,
        1,
        f"asked for: {', '.join(wanted)}",
    )


def _remedy(code: str) -> str:
    rule = RULES.get(code)
    return rule.remedy if rule is not None else "keep it where it is"


def _cut(
    component: ComponentName, part: ComponentName, chosen: list[_Candidate], alone: Alone, profile: Profile,
    constants: CostConstants,
) -> Cut:  # fmt: skip
    functions = []
    for number, made in enumerate(sorted(chosen, key=lambda item: item.measured.function)):
        module, _, qualname = made.measured.function.partition(":")
        functions.append(CutFunction(module, qualname, alone.code_line(made.measured.function), MethodId(number)))
    names = {function.id for function in functions}
    places: dict[tuple[str, int, int], Loop] = {}
    for made in chosen:
        for _, loop in made.loops:
            calls = tuple(call for call in loop.calls if call.function in names)
            places[loop.module, loop.line, loop.column] = Loop(loop.module, loop.line, loop.column, calls)
    loops = tuple(places[key] for key in sorted(places))
    shards = max(1, min(constants.cores, _MOST_SHARDS))
    return Cut(
        component=component, part=part, functions=tuple(functions), loops=loops, shards=shards, window=2 * shards + 2,
        calls=sum(made.measured.calls for made in chosen), moved_s=sum(made.measured.total_s for made in chosen),
        size_bytes=round(sum(made.measured.calls * made.measured.bytes_per_call for made in chosen)),
        cost_s=sum(made.cost_s for made in chosen), gain_s=sum(made.gain_s for made in chosen), priority=1,
        reason=f"{', '.join(sorted(names))}: calls of loops run at once in {shards} shards",
    )  # fmt: skip
