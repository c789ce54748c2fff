"""The edges that were found in the code, merged with those that the manifest declares."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct, field

from shardwright.errors import PlanError
from shardwright.model.ids import ComponentName
from shardwright.model.shard import MAIN_COMPONENT, PlanEdge, Severity, Site
from shardwright.sharding._program import Program
from shardwright.sharding._source import nearest
from shardwright.sharding._uses import Openings

Pair = tuple[ComponentName, ComponentName]  # caller, callee


class FoundUses(Struct):
    """How one component uses another, and where."""

    reasons: dict[str, set[str]] = field(default_factory=dict)  # verb -> names
    sites: set[Site] = field(default_factory=set)

    def add(self, verb: str, name: str, site: Site) -> None:
        self.reasons.setdefault(verb, set()).add(name)
        self.sites.add(site)

    @property
    def reason(self) -> str:
        texts = []
        told = {name for verb, names in self.reasons.items() if verb != "imports" for name in names}
        for verb in sorted(self.reasons):
            names = sorted(self.reasons[verb] - told if verb == "imports" else self.reasons[verb])
            if not names:
                continue
            shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
            texts.append(f"{verb} {shown}")
        return "; ".join(texts)


def merged(
    program: Program,
    components: tuple[ComponentName, ...],
    calls: Mapping[Pair, FoundUses],
    values: Mapping[Pair, FoundUses],
    declared: set[Pair],
    openings: Openings,
    note: Callable[[str, Severity, str, Site | None, str, str], None],
) -> list[PlanEdge]:
    """The edges that calls or the manifest make, sorted; ``note`` hears where the two differ. ``values`` are only copied."""
    result: list[PlanEdge] = []
    rules = {(rule.caller, rule.callee): rule for rule in program.manifest.edges}
    for pair in sorted(set(calls) | declared):
        caller, callee = pair
        if caller not in components or callee not in components:
            continue
        found, rule = calls.get(pair), rules.pop(pair, None)
        reason = found.reason if found is not None else "declared in the manifest"
        sites = tuple(sorted(found.sites, key=lambda site: (site.path, site.line))) if found is not None else ()
        result.append(
            PlanEdge(
                caller,
                callee,
                reason,
                pair in declared,
                found is not None,
                sites,
                rule.pickle if rule is not None else False,
                rule.allow if rule is not None else (),
                openings.of(caller, callee, seen=found is not None),
            )
        )
        if found is not None and pair not in declared and caller != MAIN_COMPONENT:
            note(
                "SW220",
                Severity.NOTE,
                f"the edge {caller} -> {callee} was added: {found.reason}",
                sites[0],
                caller,
                f"add {callee!r} to its depends_on",
            )
        elif found is None:
            note(
                "SW221",
                Severity.WARNING,
                f"{caller} declares that it depends on {callee}, but no call was found",
                None,
                caller,
                "remove it, or keep it for calls that cannot be seen",
            )
    for pair, found in sorted(values.items()):
        if pair not in calls and pair not in declared:
            site = min(found.sites, key=lambda item: (item.path, item.line))
            note(
                "SW222",
                Severity.NOTE,
                f"no edge {pair[0]} -> {pair[1]} is needed: {found.reason}, which are copied",
                site,
                pair[0],
                "",
            )
    for caller, callee in sorted(rules):
        note(
            "SW223",
            Severity.WARNING,
            f"the rule for the edge {caller} -> {callee} applies to no edge of the plan",
            None,
            caller,
            "remove the rule, or declare the edge in depends_on",
        )
    return result


def declared_edges(program: Program, components: tuple[ComponentName, ...]) -> set[Pair]:
    """What ``depends_on`` says. Raises PlanError where it names nothing."""
    declared = set()
    for component in program.manifest.components:
        for callee in component.depends_on:
            if callee not in components:
                near = nearest(callee, {str(name) for name in components})
                raise PlanError(
                    f"component {component.name!r} depends on unknown component {callee!r}",
                    code="SW207",
                    remedy=f"did you mean {near!r}?" if near else "declare the component, or remove it from depends_on",
                )
            if callee != component.name:
                declared.add((component.name, callee))
    return declared
