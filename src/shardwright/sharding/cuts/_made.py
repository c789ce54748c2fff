"""Cuts as the plan has them: parts with their functions and loops, as they were chosen or asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

from shardwright.errors import PlanError
from shardwright.model.cut import Cut, CutFunction, Loop
from shardwright.model.ids import ComponentName, MethodId
from shardwright.model.profile import CostConstants
from shardwright.sharding.callgraph import Scanned
from shardwright.sharding.cuts._alone import Alone
from shardwright.sharding.cuts._candidates import Callers, Candidate
from shardwright.sharding.cuts._loops import loops_of
from shardwright.sharding.hazards import Effects
from shardwright.sharding.hazards._table import RULES
from shardwright.sharding.partition import PartitionTask, partition

_MOST_SHARDS = 16


def parted(
    took: list[Candidate], callers: Callers, together: Sequence[Sequence[str]], apart: Sequence[Sequence[str]]
) -> list[list[Candidate]]:
    """The parts: one, if nothing must be apart; else as few as keep it so, with few calls between them."""
    number = {made.measured.function: place for place, made in enumerate(took)}
    pairs = [
        (number[a], number[b]) for group in apart for a, b in combinations(group, 2) if a in number and b in number
    ]
    if not pairs:
        return [took]
    calls = [
        (number[edge.caller], number[name], edge.calls)
        for name in number
        for edge in callers.to(name)
        if edge.caller in number and edge.caller != name
    ]
    weights = tuple((max(1, round(made.measured.total_s * 1e6)),) for made in took)
    groups = tuple(tuple(number[name] for name in group if name in number) for group in together)
    for parts in range(2, len(took) + 1):
        task = PartitionTask(
            weights, tuple(calls), parts, (sum(weight for (weight,) in weights),), groups, tuple(pairs)
        )
        try:
            found = partition(task)
        except PlanError as error:
            if error.code != "SW293" or parts == len(took):
                raise
            continue
        return [
            members
            for part in range(parts)
            if (members := [made for place, made in enumerate(took) if found.parts[place] == part])
        ]
    return [took]


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


def cut(
    component: ComponentName, part: ComponentName, chosen: list[Candidate], alone: Alone, constants: CostConstants
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
