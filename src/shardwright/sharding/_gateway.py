"""The built-in component that serves ``[gateway]`` and ``[[routes]]``: its definition, its edges, and where its routes go."""

from __future__ import annotations

import os
from collections.abc import Iterable

from msgspec import Struct

from shardwright.model.ids import ComponentName
from shardwright.model.limits import Limits
from shardwright.model.manifest import Manifest, Route
from shardwright.model.scope import Scope, ScopeKind, Start, StateKind
from shardwright.model.shard import (
    GATEWAY_COMPONENT,
    CodeSegment,
    Diagnostic,
    EntryKind,
    EntryPoint,
    PlanEdge,
    RouteTarget,
    Severity,
    ShardDefinition,
    Site,
)
from shardwright.sharding._source import nearest

GATEWAY_MODULE = "shardwright.gateway._process"


class GatewayPart(Struct, frozen=True):
    """What the gateway adds to a plan; without ``[gateway]``, findings at most."""

    definitions: tuple[ShardDefinition, ...] = ()
    edges: tuple[PlanEdge, ...] = ()
    routes: tuple[RouteTarget, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()


def gateway_of(manifest: Manifest, definitions: Iterable[ShardDefinition], edges: Iterable[PlanEdge]) -> GatewayPart:
    """The gateway's part of the plan. A route that leads nowhere is a refusal, and left out."""
    if manifest.gateway is None and not manifest.routes:
        return GatewayPart()
    by_name = {definition.component: definition for definition in definitions}
    with_sessions = _with_sessions(by_name, list(edges))
    routes: list[RouteTarget] = []
    refused: list[Diagnostic] = []
    for route in manifest.routes:
        found = _target(route, by_name, with_sessions)
        if isinstance(found, Diagnostic):
            refused.append(found)
        elif found is not None:
            routes.append(found)
    callees = dict.fromkeys(route.component for route in routes)
    definition = ShardDefinition(
        component=GATEWAY_COMPONENT,
        code=CodeSegment(GATEWAY_MODULE, ()),
        entry_points=(),
        scope=Scope(),
        state=StateKind.NONE,
        limits=Limits(),
        isolation="auto",
        start=Start.AUTO,
        depends_on=tuple(callees),
    )
    made = tuple(_edge(manifest, callee, [r for r in routes if r.component == callee]) for callee in callees)
    return GatewayPart((definition,), made, tuple(routes), tuple(refused))


def _with_sessions(by_name: dict[ComponentName, ShardDefinition], edges: list[PlanEdge]) -> frozenset[ComponentName]:
    """The components whose calls may come to shards of a session: their own, or those of what they call."""
    found = {name for name, definition in by_name.items() if definition.scope.kind is ScopeKind.SESSION}
    while True:
        more = {edge.caller for edge in edges if edge.callee in found} - found
        if not more:
            return frozenset(found)
        found |= more


def _target(
    route: Route, by_name: dict[ComponentName, ShardDefinition], with_sessions: frozenset[ComponentName]
) -> RouteTarget | Diagnostic | None:
    name, _, entry = route.call.partition(".")
    definition = by_name.get(ComponentName(name if route.call else route.app))
    if definition is None:
        return None
    component = definition.component
    point: EntryPoint | None
    if route.call:
        known = {p.name: p for p in definition.entry_points}
        point = known.get(entry)
        if point is None:
            near = nearest(entry, tuple(known))
            offered = [p.name for p in definition.entry_points if p.kind is EntryKind.FUNCTION][:6]
            remedy = f"did you mean {name}.{near}?" if near else f"give {name} the function {entry!r}"
            if not near and offered:
                remedy += f", or call one that it has: {', '.join(f'{name}.{other}' for other in offered)}"
            return _refusal(component, f"route {route.path} calls {route.call}, which is no entry point", remedy)
        if point.kind is not EntryKind.FUNCTION or point.is_generator:
            what = "a generator" if point.is_generator else f"a {point.kind.value}"
            return _refusal(
                component, f"route {route.path} calls {route.call}, which is {what}", "call a plain or async function"
            )
        if definition.scope.kind is ScopeKind.KEY and point.key is None:
            return _refusal(
                component,
                f"route {route.path} calls {route.call}, which does not say for which {definition.scope.argument}",
                f"give it the argument {definition.scope.argument!r}",
            )
    else:
        point = next((p for p in definition.entry_points if p.kind is EntryKind.APPLICATION), None)
        if point is None:
            return _refusal(
                component,
                f"route {route.path} serves {route.app}, which has no application",
                f'say which attribute it is, such as `code = "{definition.code.primary}:app"`',
            )
        if definition.scope.kind is ScopeKind.KEY:
            return _refusal(
                component,
                f"route {route.path} serves {route.app}, whose shards are found by an argument",
                'serve an application of scope "shared" or "session"',
            )
    return RouteTarget(
        path=route.path,
        methods=route.methods,
        component=component,
        method_id=point.method_id,
        name=route.call or f"{component}.{point.name}",
        kind=point.kind,
        scope=definition.scope.kind,
        needs_session=component in with_sessions,
        key=point.key,
        line=route.line,
        timeout_s=route.timeout_s,
    )


def _refusal(component: ComponentName, message: str, remedy: str) -> Diagnostic:
    return Diagnostic("SW224", Severity.REFUSAL, message, None, component, remedy)


def _edge(manifest: Manifest, callee: ComponentName, routes: list[RouteTarget]) -> PlanEdge:
    words = [f"{' '.join((*route.methods, route.path))}" for route in routes[:3]]
    more = f" and {len(routes) - 3} more" if len(routes) > 3 else ""
    file = os.path.relpath(manifest.path, manifest.root)
    return PlanEdge(
        caller=GATEWAY_COMPONENT,
        callee=callee,
        reason=f"routes {', '.join(words)}{more}" if len(routes) > 1 else f"route {words[0]}",
        declared=True,
        found=True,
        sites=tuple(Site(file, route.line) for route in routes),
    )
