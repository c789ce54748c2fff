"""From a manifest and the application's source to a ShardPlan."""

from __future__ import annotations

from msgspec.structs import replace

from shardwright.model.ids import ComponentName
from shardwright.model.limits import Limits
from shardwright.model.manifest import Component, Manifest
from shardwright.model.profile import CostConstants, Profile
from shardwright.model.scope import Scope, Start, StateKind
from shardwright.model.shard import (
    MAIN_COMPONENT,
    CodeSegment,
    Diagnostic,
    ModuleSurface,
    PlanEdge,
    Severity,
    ShardDefinition,
    ShardPlan,
    Site,
)
from shardwright.sharding._classes import classes_in
from shardwright.sharding._data import code_of_class, data_source
from shardwright.sharding._declared import check_variables, declare
from shardwright.sharding._edges import find_edges
from shardwright.sharding._entries import entries_of, main_entries
from shardwright.sharding._gateway import gateway_of
from shardwright.sharding._inside import cut_inside
from shardwright.sharding._knows import Knowledge
from shardwright.sharding._program import Program
from shardwright.sharding._scanned import Touch, UseKind
from shardwright.sharding._state import dependencies_of, evidence_of, state_of
from shardwright.sharding._stub import stub_source
from shardwright.sharding._surface import Surface, judge
from shardwright.sharding._symbols import Ref
from shardwright.sharding._waits import waits_in_vain
from shardwright.sharding.reaches import Reaches

_RANK = {Severity.REFUSAL: 0, Severity.WARNING: 1, Severity.NOTE: 2}


def plan(manifest: Manifest, profile: Profile | None = None, constants: CostConstants | None = None) -> ShardPlan:
    """Plans an application by reading its source below ``manifest.root``; imports none of it.

    With a profile, and what a call across costs on this machine, components are cut inside too, where that pays.
    The same manifest and source give the same plan. Hazards are diagnostics of the plan; what makes a plan
    impossible (bad syntax, missing modules or names, contradictions between manifest and code) raises PlanError with a
    remedy.
    """
    made = plan_of(Program(manifest))
    if profile is None or constants is None:
        return made
    return cut_inside(manifest, made, profile, constants)


def plan_of(program: Program) -> ShardPlan:
    """The plan of a program that was read already."""
    manifest = program.manifest
    check_variables(program)
    surfaces = judge(program)
    modules = tuple(_surface(program, surfaces, module) for module in sorted(surfaces))
    knowledge = Knowledge(program, {each.module: each.stub_source for each in modules})
    components: tuple[ComponentName, ...] = tuple(component.name for component in manifest.components)
    if program.main_module is not None:
        components = (*components, MAIN_COMPONENT)
    values, stateful = _classes(program)
    found = find_edges(program, surfaces, components, values)
    diagnostics = list(found.diagnostics)
    definitions: list[ShardDefinition] = []
    for component in manifest.components:
        definition, more = _define(program, surfaces, component, found.edges)
        definitions.append(definition)
        diagnostics += more
    if program.main_module is not None:
        definitions.append(_define_main(program, surfaces, found.edges))
    for surface in surfaces.values():
        diagnostics += surface.diagnostics
    diagnostics += _common_globals(program, components) + _process_settings(program, components)
    diagnostics += _logging_settings(program, components) + _iterable_classes(program, surfaces, components)
    diagnostics += _class_notes(program, surfaces) + waits_in_vain(program, [c.name for c in manifest.components])
    definitions = [replace(each, knows=knowledge.of(each.component)) for each in definitions]
    reaches = Reaches(program, surfaces)
    definitions = [
        replace(each, auto=reaches.isolation(each.component, each.knows)) if each.isolation == "auto" else each
        for each in definitions
    ]
    diagnostics += _hidden_code(program, surfaces, definitions, found.edges)
    gateway = gateway_of(manifest, definitions, found.edges)
    diagnostics += gateway.diagnostics
    return ShardPlan(
        app=manifest.app,
        root=manifest.root,
        main=manifest.main,
        definitions=(*definitions, *gateway.definitions),
        edges=(*found.edges, *gateway.edges),
        diagnostics=tuple(sorted(diagnostics, key=_order)),
        modules=modules,
        value_classes=values,
        stateful_classes=stateful,
        routes=gateway.routes,
        context_variables=manifest.context_variables,
        common_data=tuple((name, text) for name in sorted(program.common) if (text := _common_data(program, name))),
    )


def _order(finding: Diagnostic) -> tuple[int, str, str, str, int, str]:
    site = finding.site or Site("", 0)
    return (_RANK[finding.severity], finding.code, finding.component or "", site.path, site.line, finding.message)


def _define(
    program: Program, surfaces: dict[str, Surface], component: Component, edges: list[PlanEdge]
) -> tuple[ShardDefinition, list[Diagnostic]]:
    modules = program.owned_by(component.name)
    if component.attribute:
        program.require(component.module, component.attribute, f"component {component.name!r}")
    entries, diagnostics = entries_of(program, component)
    entries = declare(component, entries)
    state, notes = state_of(component, evidence_of(program, surfaces, modules))
    definition = ShardDefinition(
        component=component.name,
        code=CodeSegment(component.module, modules, component.attribute),
        entry_points=entries,
        scope=component.scope,
        state=state,
        limits=component.limits,
        isolation=component.isolation,
        start=component.start,
        depends_on=_callees(component.name, edges),
        data_dependencies=dependencies_of(program, component.name),
        queue=component.queue,
    )
    return definition, [*diagnostics, *notes]


def _define_main(program: Program, surfaces: dict[str, Surface], edges: list[PlanEdge]) -> ShardDefinition:
    assert program.main_module is not None
    name, _, attribute = program.manifest.main.partition(":")
    written = any(ref.module == name for ref in program.written_globals)
    return ShardDefinition(
        component=MAIN_COMPONENT,
        code=CodeSegment(name, (name,), attribute),
        entry_points=main_entries(program),
        scope=Scope(),
        state=StateKind.MEMORY if written else StateKind.NONE,
        limits=Limits(),
        isolation="auto",
        start=Start.AUTO,
        depends_on=_callees(MAIN_COMPONENT, edges),
        data_dependencies=dependencies_of(program, MAIN_COMPONENT),
    )


def _callees(component: ComponentName, edges: list[PlanEdge]) -> tuple[ComponentName, ...]:
    return tuple(edge.callee for edge in edges if edge.caller == component)


def _surface(program: Program, surfaces: dict[str, Surface], name: str) -> ModuleSurface:
    module = surfaces[name].symbols.module
    return ModuleSurface(
        module=module.name,
        owner=program.owners[module.name],
        path=module.relative,
        is_package=module.is_package,
        stub_source=stub_source(program, surfaces, name),
        source_sha256=module.sha256,
        data_source=data_source(program, surfaces, name),
    )


def _common_data(program: Program, module: str) -> str:
    symbols = program.resolver.symbols(module) if _below_root(program, module) else None
    return data_source(program, {module: Surface(symbols)}, module) if symbols is not None else ""


def _classes(program: Program) -> tuple[tuple[str, ...], tuple[str, ...]]:
    values: set[str] = set()
    stateful: set[str] = set()
    for module in sorted({*program.owners, *program.common}):
        if module in program.common and not _below_root(program, module):
            continue
        for name, _ in classes_in(program.tree.loaded[module].tree):
            facts = program.classes.facts(Ref(module, name))
            (stateful if facts is not None and facts.stateful else values).add(f"{module}:{name}")
        symbols = program.resolver.symbols(module)
        for name in symbols.bindings if symbols is not None else ():
            if program.resolver.made_class(Ref(module, name)):
                values.add(f"{module}:{name}")
    return tuple(sorted(values)), tuple(sorted(stateful))


def _below_root(program: Program, module: str) -> bool:
    return not program.tree.loaded[module].relative.startswith("/")


# -- findings that belong to no edge -------------------------------------------------------------------------------


def split_state(program: Program, components: tuple[ComponentName, ...]) -> dict[Ref, list[ComponentName]]:
    """Globals of common modules that are written after import, and the components that each have a copy: two or more."""
    users: dict[str, list[ComponentName]] = {}
    for component in components:
        for module in program.code_of(component):
            users.setdefault(module, []).append(component)
    return {
        ref: users[ref.module]
        for ref in program.written_globals
        if ref.module not in program.owners and ref.module in program.common and len(users.get(ref.module, ())) > 1
    }


def _common_globals(program: Program, components: tuple[ComponentName, ...]) -> list[Diagnostic]:
    found = []
    for ref, importers in split_state(program, components).items():
        module, use = program.written_globals[ref][0]
        site = Site(program.tree.loaded[module].relative, use.line)
        names = ", ".join(importers)
        found.append(
            Diagnostic(
                "SW231",
                Severity.WARNING,
                f"{ref.name} of common module {ref.module} is written after import; "
                f"the shards of {names} each have their own copy",
                site,
                None,
                f"give {ref.module} to one component",
            )
        )
    return found


def _process_settings(program: Program, components: tuple[ComponentName, ...]) -> list[Diagnostic]:
    found: dict[Site, Diagnostic] = {}
    if len(components) < 2:
        return []
    for component in components:
        for module in program.code_of(component):
            for touch in program.scan(module).touches:
                writes_variable = touch.kind == "environment" and touch.writes and touch.deferred
                if touch.kind != "process" and not writes_variable:
                    continue
                site = Site(program.tree.loaded[module].relative, touch.line)
                what = touch.name if touch.kind == "process" else f"environment variable {touch.name}"
                found.setdefault(
                    site,
                    Diagnostic(
                        "SW232",
                        Severity.WARNING,
                        f"{what} is set for the whole process; only the shard that runs this sees it",
                        site,
                        program.owners.get(module),
                        "set it at import, in a common module",
                    ),
                )
    return list(found.values())


def _logging_settings(program: Program, components: tuple[ComponentName, ...]) -> list[Diagnostic]:
    """Logging set up anywhere but at the import of a module that every component imports."""
    found: dict[Site, Diagnostic] = {}
    if len(components) < 2:
        return []
    code = {component: frozenset(program.code_of(component)) for component in components}
    everywhere = frozenset.intersection(*code.values())
    for component in components:
        for module in sorted(code[component]):
            for touch in program.scan(module).touches:
                if touch.kind != "logging" or (module in everywhere and _at_import(program, module, touch)):
                    continue
                where = "the shard that runs this" if touch.deferred else "the shards that import this"
                site = Site(program.tree.loaded[module].relative, touch.line)
                found.setdefault(
                    site,
                    Diagnostic(
                        "SW233",
                        Severity.WARNING,
                        f"{touch.name} configures logging in {where} alone; the other shards log as before",
                        site,
                        program.owners.get(module, component if component == MAIN_COMPONENT else None),
                        "configure logging at import, in a common module that every component imports",
                    ),
                )
    return list(found.values())


def _at_import(program: Program, module: str, touch: Touch) -> bool:
    """Whether importing the module runs the place: at its top level, or in a function that it calls there."""
    if not touch.deferred:
        return True
    return any(
        use.kind is UseKind.CALL and not use.deferred and use.ref == Ref(module, touch.top)
        for use in program.scan(module).uses
    )


def _iterable_classes(
    program: Program, surfaces: dict[str, Surface], components: tuple[ComponentName, ...]
) -> list[Diagnostic]:
    """A note at each class whose objects others hold by handle and cannot iterate over: not every use can be seen."""
    found = []
    for module, surface in surfaces.items() if len(components) > 1 else ():
        for name in surface.stateful:
            facts = program.classes.facts(Ref(module, name))
            if facts is not None and facts.hands_out_iterators:
                found.append(
                    Diagnostic(
                        "SW255",
                        Severity.NOTE,
                        f"{name} can be iterated over in {program.owners[module]} only: its iterators do not cross",
                        Site(surface.symbols.module.relative, facts.node.lineno),
                        program.owners[module],
                        f"give {name} a method that returns a list",
                    )
                )
    return found


def _hidden_code(
    program: Program, surfaces: dict[str, Surface], definitions: list[ShardDefinition], edges: list[PlanEdge]
) -> list[Diagnostic]:
    """A note at each value class with code of its own that may come to a component which does not import its module."""
    found = []
    beside: dict[str, set[str]] = {}
    for edge in edges:
        beside.setdefault(edge.caller, set()).add(edge.callee)
        beside.setdefault(edge.callee, set()).add(edge.caller)
    knows = {definition.component: definition.knows for definition in definitions}
    for module, surface in surfaces.items():
        owner = program.owners[module]
        strangers = sorted(
            name for name in beside.get(owner, ()) if module not in knows.get(ComponentName(name), (module,))
        )
        for name, node in surface.values.items():
            code = code_of_class(node)
            if not strangers or not code:
                continue
            site = Site(surface.symbols.module.relative, node.lineno)
            shown = ", ".join(code[:4]) + (", ..." if len(code) > 4 else "")
            found.append(
                Diagnostic(
                    "SW256",
                    Severity.NOTE,
                    f"{name} comes to {', '.join(strangers)} as data: {shown} would not run there",
                    site,
                    owner,
                    f"import {module} there (under TYPE_CHECKING will do), or define {name} in a module that no component owns",
                )
            )
    return found


def _class_notes(program: Program, surfaces: dict[str, Surface]) -> list[Diagnostic]:
    found = []
    for module, surface in surfaces.items():
        owner = program.owners[module]
        for name, node in surface.values.items():
            facts = program.classes.facts(Ref(module, name))
            if facts is None:
                continue
            site = Site(surface.symbols.module.relative, node.lineno)
            if facts.global_writes:
                at = Site(site.path, facts.global_writes[0])
                found.append(
                    Diagnostic(
                        "SW253",
                        Severity.WARNING,
                        f"value class {name} writes globals of {module}; every shard writes its own copy",
                        at,
                        owner,
                        "list it in `stateful`",
                    )
                )
            elif facts.changes and facts.nature == "record":
                found.append(
                    Diagnostic(
                        "SW252",
                        Severity.NOTE,
                        f"{name} changes itself ({facts.changes[0][1]}); copies do not follow each other",
                        Site(site.path, facts.changes[0][0]),
                        owner,
                        f'list "{name}" in `stateful` if its instances are shared',
                    )
                )
    return found
