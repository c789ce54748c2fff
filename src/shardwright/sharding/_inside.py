"""Cuts inside components become definitions and edges of the plan, and components that a node can start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from shardwright.model.cut import Cut
from shardwright.model.ids import ComponentName
from shardwright.model.manifest import Component, Manifest, Scale, Warm
from shardwright.model.profile import CostConstants, Profile
from shardwright.model.scope import Scope, ScopeKind, StateKind
from shardwright.model.shard import (
    CodeSegment,
    Diagnostic,
    EntryKind,
    EntryPoint,
    PlanEdge,
    Severity,
    ShardDefinition,
    ShardPlan,
    Site,
)
from shardwright.sharding._found import scan_manifest
from shardwright.sharding.callgraph import Scanned
from shardwright.sharding.cuts import candidates, changed_sources, choose, forced
from shardwright.sharding.hazards import Effects


def sources_of(plan: ShardPlan) -> dict[str, str]:
    """The hashes of the modules that components own: what a profile is true of."""
    return {surface.module: surface.source_sha256 for surface in plan.modules}


Read = tuple[Scanned, Effects]
"""What reading an application's packages found; reading takes seconds for large ones, so it may be done once and handed on."""


def hot_functions(
    manifest: Manifest, plan: ShardPlan, profile: Profile, *, relief: bool = False, read: Read | None = None
) -> tuple[str, ...]:
    """Functions that take time and that nothing in the code forbids to cut: worth a closer look while they run."""
    scanned, effects = read or scan_manifest(manifest)
    modules = [surface.module for surface in plan.modules]
    return candidates(scanned, effects, profile, modules, relief=relief)


def cut_inside(
    manifest: Manifest,
    plan: ShardPlan,
    profile: Profile,
    constants: CostConstants,
    *,
    relief: bool = False,
    read: Read | None = None,
) -> ShardPlan:
    """The plan with what pays cut out of its components, by what a profile showed.

    A profile of another version of the code cuts nothing, and a refusal (SW335) names the modules that differ.
    """
    changed = changed_sources(profile, sources_of(plan))
    if changed:
        shown = ", ".join(changed[:8]) + (f", and {len(changed) - 8} more" if len(changed) > 8 else "")
        message = f"the profile is of another version of the code: {shown}; nothing is cut inside components"
        found = Diagnostic(
            "SW335", Severity.REFUSAL, message, None, None, "profile again: shardwright plan --profile -- COMMAND"
        )
        return replace(plan, diagnostics=(found, *plan.diagnostics))
    scanned, effects = read or scan_manifest(manifest)
    taken = {str(definition.component) for definition in plan.definitions}
    definitions, edges, notes = list(plan.definitions), list(plan.edges), list(plan.diagnostics)
    cuts: list[Cut] = []
    for component in manifest.components:
        definition = plan.definition(component.name)
        refusal = _refusal(component, definition)
        if refusal is not None:
            notes.append(refusal)
            continue
        part = ComponentName(_free_name(f"{component.name}-cut", taken))
        chosen = choose(
            component.name, part, definition.code.modules, scanned, effects, profile, constants,
            never=component.never_cut, relief=relief, together=component.together, apart=component.apart,
        )  # fmt: skip
        notes += chosen.diagnostics
        for cut in chosen.cuts:
            taken.add(str(cut.part))
            cuts.append(cut)
            definitions.append(_definition(definition, cut))
            edges.append(_edge(definition, cut))
    ranked = sorted(cuts, key=lambda cut: (-cut.gain_s, cut.part))
    ranks = {cut.part: number for number, cut in enumerate(ranked, 1)}
    definitions = [
        replace(item, depends_on=(*item.depends_on, *(cut.part for cut in cuts if cut.component == item.component)))
        for item in definitions
    ]
    return replace(
        plan, definitions=tuple(definitions), edges=tuple(edges), diagnostics=tuple(notes),
        cuts=tuple(replace(cut, priority=ranks[cut.part]) for cut in ranked),
    )  # fmt: skip


def cut_functions(
    manifest: Manifest,
    plan: ShardPlan,
    functions: Mapping[str, Sequence[str]],
    *,
    shards: int = 1,
    read: Read | None = None,
) -> ShardPlan:
    """The plan with these functions (``module:qualname``, by component) cut out, whatever that costs.

    What must not be cut raises PlanError with the rule that says so; so does a name that is not there.
    """
    scanned, effects = read or scan_manifest(manifest)
    definitions, edges, cuts = list(plan.definitions), list(plan.edges), []
    for name, wanted in functions.items():
        whole = plan.definition(name)
        part = ComponentName(_free_name(f"{name}-cut", {str(item.component) for item in definitions}))
        cut = forced(ComponentName(name), part, wanted, scanned, effects, shards=shards)
        cuts.append(cut)
        definitions.append(_definition(whole, cut))
        definitions = [
            replace(item, depends_on=(*item.depends_on, part)) if item.component == name else item
            for item in definitions
        ]
        edges.append(_edge(whole, cut))
    return replace(plan, definitions=tuple(definitions), edges=tuple(edges), cuts=tuple(cuts))


def cut_components(manifest: Manifest, plan: ShardPlan) -> Manifest:
    """The manifest with a component for each part that the plan cut out of one: as that one, but for state and number."""
    parts = []
    for cut in plan.cuts:
        whole = manifest.component(cut.component)
        parts.append(
            replace(
                whole, name=cut.part, scope=Scope(), state=StateKind.NONE, depends_on=(), warm=Warm(),
                scale=Scale(min=cut.shards, max=cut.shards, target_concurrency=whole.scale.target_concurrency),
            )
        )  # fmt: skip
    return replace(manifest, components=(*manifest.components, *parts)) if parts else manifest


def _refusal(component: Component, definition: ShardDefinition) -> Diagnostic | None:
    """Why nothing is cut inside a component, whatever it does."""
    if component.scope.kind is not ScopeKind.SHARED:
        message = (
            f"{component.name} has a shard for each {component.scope}: shards cut out of it would serve several, which are "
            "apart otherwise; nothing is cut inside it"
        )
        return Diagnostic(
            "SW334", Severity.NOTE, message, None, component.name, "give what is stateless a component of its own"
        )
    return None


def _free_name(wanted: str, taken: set[str]) -> str:
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}{number}"
    return name


def _definition(whole: ShardDefinition, cut: Cut) -> ShardDefinition:
    entries = tuple(
        EntryPoint(
            function.method_id,
            function.qualname,
            function.module,
            function.qualname,
            EntryKind.FUNCTION,
            line=function.line,
        )
        for function in cut.functions
    )
    return replace(
        whole, component=cut.part, code=CodeSegment(whole.code.primary, whole.code.modules), entry_points=entries,
        scope=Scope(),
        state=StateKind.NONE, depends_on=(), data_dependencies=(), cut_of=whole.component,
    )  # fmt: skip


def _edge(whole: ShardDefinition, cut: Cut) -> PlanEdge:
    sites = tuple(Site(f"{loop.module.replace('.', '/')}.py", loop.line) for loop in cut.loops)
    return PlanEdge(
        whole.component, cut.part, cut.reason, declared=False, found=True, sites=sites,
        uses=tuple(f"{function.module}:{function.qualname}" for function in cut.functions),
    )  # fmt: skip
