"""The graph inside an application's components, and why a function of it is where it is."""

from __future__ import annotations

from msgspec import Struct

from shardwright.errors import PlanError
from shardwright.model.graph import ComponentGraph, Edge, Vertex
from shardwright.model.ids import ComponentName
from shardwright.model.manifest import Manifest
from shardwright.model.shard import MAIN_COMPONENT, Diagnostic, Site
from shardwright.sharding._source import nearest
from shardwright.sharding.callgraph import How, Scanned, scan_packages
from shardwright.sharding.hazards import Effects, Verdict, find_hazards

_MOST_SITES = 3


class Neighbour(Struct, frozen=True):
    """A function on the other end of edges: how sure they are, and where the calls stand."""

    function: str
    confidence: float
    sites: tuple[Site, ...]


class Explanation(Struct, frozen=True):
    """Why a function is where it is. ``verdict``: shard, keep together, or refuse; ``together`` are the functions that
    share its shard for reasons of code, ``findings`` the reasons."""

    function: str
    component: ComponentName | None
    site: Site
    verdict: str
    together: tuple[str, ...]
    effects: tuple[str, ...]
    findings: tuple[Diagnostic, ...]
    calls: tuple[Neighbour, ...]
    called_by: tuple[Neighbour, ...]


def component_graph(manifest: Manifest) -> ComponentGraph:
    """What analysis finds inside the components of an application; reads their source, imports none of it.

    Files that cannot be parsed are findings (SW202), and the rest is analysed.
    """
    scanned, effects = scan_manifest(manifest)
    return _graph(manifest, scanned, effects)


def explain(manifest: Manifest, name: str) -> Explanation:
    """Why a function is where it is: by ``module:qualname``, or by the end of that if it is the only one.

    Raises PlanError with the nearest name where there is none, or with all that fit where there are several.
    """
    scanned, effects = scan_manifest(manifest)
    graph = _graph(manifest, scanned, effects)
    key = _named(scanned, name)
    vertex = next(item for item in graph.vertices if item.id == key)
    hazards = effects.of(key)
    verdicts = {hazard.verdict for hazard in hazards}
    ranked = (Verdict.REFUSE, Verdict.TOGETHER, Verdict.SHARD)
    verdict = next((item for item in ranked if item in verdicts), Verdict.SHARD)
    group = next((names for names in graph.groups() if key in names), ())
    return Explanation(
        function=key,
        component=vertex.component or _main_component(manifest, key),
        site=vertex.site,
        verdict=verdict.value,
        together=tuple(item for item in group if item != key),
        effects=tuple(
            f"{fact.effect.value} {fact.name} (line {fact.line}{f', through {fact.through}' if fact.through else ''})"
            for fact in effects.facts[key]
        ),
        findings=tuple(hazard.diagnostic() for hazard in hazards),
        calls=tuple(Neighbour(edge.callee, edge.confidence, edge.sites) for edge in graph.edges if edge.caller == key),
        called_by=tuple(
            Neighbour(edge.caller, edge.confidence, edge.sites) for edge in graph.edges if edge.callee == key
        ),
    )


def _main_component(manifest: Manifest, key: str) -> ComponentName | None:
    """What the program begins with belongs to a component of its own."""
    module = manifest.main.partition(":")[0]
    return MAIN_COMPONENT if module and key.partition(":")[0] == module else None


def explanation_text(found: Explanation) -> str:
    """An explanation for a reader at a terminal."""
    where = f"component {found.component}" if found.component else "no component: every shard has it"
    lines = [f"{found.function}  {found.site}  ({where})", f"  rule: {found.verdict}"]
    if found.together:
        shown = ", ".join(found.together[:8])
        more = f", and {len(found.together) - 8} more" if len(found.together) > 8 else ""
        lines.append(f"  shares its shard with {shown}{more}")
    for finding in found.findings:
        lines += [f"  {finding.code}  {finding.site}: {finding.message}", f"         remedy: {finding.remedy}"]
    if found.effects:
        lines += ["  effects:", *(f"    {effect}" for effect in found.effects)]
    for title, neighbours in (("calls", found.calls), ("called by", found.called_by)):
        if neighbours:
            lines.append(f"  {title}:")
            for item in neighbours:
                places = ", ".join(str(site) for site in item.sites)
                lines.append(f"    {item.function}  ({item.confidence:.0%}) at {places}")
    return "\n".join(lines) + "\n"


def scan_manifest(manifest: Manifest) -> tuple[Scanned, Effects]:
    """Call graph and hazards of all components' packages."""
    packages = {component.module: None for component in manifest.components}
    if manifest.main:
        packages[manifest.main.partition(":")[0]] = None
    roots = [name for name in packages if not any(name.startswith(f"{other}.") for other in packages)]
    scanned = scan_packages(manifest.root, roots)
    return scanned, find_hazards(scanned)


def _graph(manifest: Manifest, scanned: Scanned, effects: Effects) -> ComponentGraph:
    refused = {name for hazard in effects.hazards if hazard.verdict is Verdict.REFUSE for name in hazard.functions}
    vertices = tuple(
        Vertex(item.id, _owner(manifest, item.module), Site(item.path, item.line or 1), item.kind, item.id in refused)
        for item in scanned.graph.functions.values()
    )
    sites: dict[tuple[str, str], list[Site]] = {}
    for calling in scanned.graph.sites:
        for candidate in calling.candidates:
            if candidate.how is not How.OUTSIDE:
                sites.setdefault((calling.caller, candidate.function), []).append(calling.site)
    edges = tuple(
        Edge(caller, callee, confidence, tuple(dict.fromkeys(sites[caller, callee]))[:_MOST_SITES])
        for caller, callee, confidence in scanned.graph.edges()
    )
    together = tuple(
        (hazard.functions, hazard.diagnostic()) for hazard in effects.hazards if hazard.verdict is Verdict.TOGETHER
    )
    findings = (*scanned.graph.problems, *(hazard.diagnostic() for hazard in effects.hazards))
    return ComponentGraph(vertices, edges, together, findings)


def _owner(manifest: Manifest, module: str) -> ComponentName | None:
    """The component with the most specific code that the module is of."""
    fitting = [item for item in manifest.components if module == item.module or module.startswith(f"{item.module}.")]
    return max(fitting, key=lambda item: len(item.module)).name if fitting else None


def _named(scanned: Scanned, name: str) -> str:
    functions = scanned.graph.functions
    if name in functions:
        return name
    dotted = name.replace(":", ".")
    fitting = [key for key in functions if f".{key.replace(':', '.')}".endswith(f".{dotted}")]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise PlanError(f"{name!r} may be {', '.join(fitting[:6])}", code="SW204", remedy="name the module, too")
    near = nearest(name, [*functions, *(key.partition(":")[2] for key in functions)])
    raise PlanError(
        f"no function {name!r} in the code of the components", code="SW204",
        remedy=f"did you mean {near!r}?" if near else "name it as module:function",
    )  # fmt: skip
