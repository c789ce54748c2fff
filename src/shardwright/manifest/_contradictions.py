"""Keys that are right each by itself and wrong together."""

from __future__ import annotations

import os
from collections.abc import Iterator

from shardwright.manifest._build import RESOURCE_KEYS
from shardwright.manifest._document import Document
from shardwright.manifest._places import KeyPath
from shardwright.manifest._report import Problem, Report, nearest, one_of
from shardwright.model.manifest import Component, Manifest
from shardwright.model.scope import ScopeKind
from shardwright.model.shard import GATEWAY_COMPONENT, MAIN_COMPONENT

Finding = tuple[KeyPath, str, str, str]  # where, what is wrong, what was expected, nearest valid name


def check(manifest: Manifest, document: Document, report: Report) -> None:
    """Report every contradiction, except those about a key that is already faulty."""
    found = list(_in_components(manifest, document, report))
    found += _ownership(manifest, report)
    found += _in_edges(manifest, report)
    found += _in_routes(manifest, report)
    found += _in_gateway(manifest, report)
    found += _in_secrets(manifest, report)
    for path, what, expected, near in found:
        report.add(Problem(document.place(path), path, what, expected, near))


def _names(manifest: Manifest) -> list[str]:
    return sorted(component.name for component in manifest.components)


def _unknown(name: str, names: list[str]) -> tuple[str, str, str]:
    names = [each for each in names if each.isprintable()]  # of the others it is said that they are no names
    return f"there is no component '{name}'", one_of(names) if names else "a component", nearest(name, names)


def _in_components(manifest: Manifest, document: Document, report: Report) -> Iterator[Finding]:
    has_main = document.value(("app", "main")) is not None
    if not manifest.components and not has_main and not report.faulty(("components",)):
        yield ("components",), "there is nothing to run", "at least one [components.<name>], or app.main", ""
    names = _names(manifest)
    for component in manifest.components:
        at: KeyPath = ("components", component.name)
        for index, other in enumerate(component.depends_on):
            where = _element((*at, "depends_on"), other, index, document)
            if other == component.name:
                yield where, "a component cannot depend on itself", "other components", ""
            elif other not in names:
                yield (where, *_unknown(other, names))
        yield from _limits(component, at, document, report)
        yield from _bounds(component, at, document, report)
        yield from _sharing(component, at, document, report)


def _element(path: KeyPath, text: str, index: int, document: Document) -> KeyPath:
    """Where that element of an array was written: elements that did not fit are missing from the typed tuple."""
    values = document.value(path)
    if isinstance(values, list):
        index = next((i for i, value in enumerate(values) if i >= index and value == text), index)
    return (*path, index)


def _limits(component: Component, at: KeyPath, document: Document, report: Report) -> Iterator[Finding]:
    guarantee, ceiling = component.limits.guarantee, component.limits.ceiling
    for field in guarantee.exceeds(ceiling):
        key = RESOURCE_KEYS[field]
        low, high = (*at, "resources", key), (*at, "limits", key)
        if not report.faulty(low, high):
            what = f"the guarantee is above the ceiling at {document.place(high)}"
            yield low, what, f"at most limits.{key}", ""


def _bounds(component: Component, at: KeyPath, document: Document, report: Report) -> Iterator[Finding]:
    warm, scale, most = component.warm, component.scale, component.usage.max_instances
    for key, low, high in (("warm", warm.min, warm.max), ("scale", scale.min, scale.max)):
        if report.faulty((*at, key)):
            continue
        if low > high:
            yield (*at, key, "min"), f"{low} is above {key}.max", f"at most {high}", ""
        elif most is not None and low > most and not report.faulty((*at, "usage", "max_instances")):
            stated = (
                (*at, key, "min") if document.value((*at, key, "min")) is not None else (*at, "usage", "max_instances")
            )
            yield stated, f"{key}.min is {low} and usage.max_instances {most}", f"{key}.min of at most {most}", ""


def _sharing(component: Component, at: KeyPath, document: Document, report: Report) -> Iterator[Finding]:
    kind = component.scope.kind
    if report.faulty((*at, "scope")):
        return
    sessions = (*at, "sessions_per_shard")
    if component.sessions_per_shard > 1 and kind is not ScopeKind.SESSION:
        yield sessions, f"more than 1 contradicts scope '{component.scope}'", 'scope = "session", or 1', ""
    if kind in (ScopeKind.SESSION, ScopeKind.REQUEST):
        for bound in ("min", "max"):
            if document.value((*at, "scale", bound)) is not None:
                what = f"instances follow the {kind.value}s with scope '{kind.value}'"
                yield (*at, "scale", bound), what, "usage.max_instances to restrict them", ""
    for name in sorted(set(component.stateful) & set(component.value)):
        where = _element((*at, "value"), name, component.value.index(name), document)
        yield where, f"'{name}' is listed in stateful too", "one of the two", ""


def _ownership(manifest: Manifest, report: Report) -> Iterator[Finding]:
    owners: dict[str, str] = {}
    for component in manifest.components:
        code: KeyPath = ("components", component.name, "code")
        if report.faulty(code):
            continue
        owner = owners.setdefault(component.module, component.name)
        if owner != component.name:
            what = f"component '{owner}' owns module {component.module} already"
            yield code, what, "a module that no other component names", ""
    if not manifest.main or MAIN_COMPONENT not in _names(manifest) or report.faulty(("app", "main")):
        return
    module = manifest.main.partition(":")[0]
    if not any(module == owned or module.startswith(f"{owned}.") for owned in owners):
        what = f"'{MAIN_COMPONENT}' is reserved for app.main, whose module {module} no component owns"
        yield ("components", MAIN_COMPONENT), what, "another name, or code that owns that module", ""


def _in_edges(manifest: Manifest, report: Report) -> Iterator[Finding]:
    names = _names(manifest)
    seen: dict[tuple[str, str], int] = {}
    for index, edge in enumerate(manifest.edges):
        at: KeyPath = ("edges", index)
        for key, name in (("from", edge.caller), ("to", edge.callee)):
            implicit_main = name == MAIN_COMPONENT and key == "from" and manifest.main
            if not report.faulty((*at, key)) and name not in names and not implicit_main:
                yield ((*at, key), *_unknown(name, names))
        if report.faulty((*at, "from"), (*at, "to")):
            continue
        if edge.caller == edge.callee:
            yield (*at, "to"), "an edge joins two different components", "another component", ""
        first = seen.setdefault((edge.caller, edge.callee), index)
        if first != index:
            what = f"edges[{first}] speaks of '{edge.caller}' to '{edge.callee}' already"
            yield at, what, "one [[edges]] for each edge", ""


def _in_routes(manifest: Manifest, report: Report) -> Iterator[Finding]:
    names = _names(manifest)
    seen: dict[tuple[str, str], int] = {}
    for index, route in enumerate(manifest.routes):
        at: KeyPath = ("routes", index)
        for key, name in (("call", route.call.partition(".")[0]), ("app", route.app)):
            if name and name not in names:
                yield ((*at, key), *_unknown(name, names))
        if bool(route.call) == bool(route.app) and not report.faulty((*at, "call"), (*at, "app")):
            what = "both call and app are given" if route.call else "neither call nor app is given"
            yield at, what, "one of call and app", ""
        if report.faulty((*at, "path"), (*at, "methods")):
            continue
        if route.app and "{" in route.path:
            mount = route.path.partition("/{")[0] or "/"
            what = "an application takes every path beneath its own, and no arguments from it"
            yield (*at, "path"), what, f'path = "{mount}"', ""
        for method in route.methods or ("any method",):
            first = seen.setdefault((route.path, method), index)
            if first != index:
                yield at, f"routes[{first}] answers {method} {route.path} already", "another path or method", ""
                break


def _in_gateway(manifest: Manifest, report: Report) -> Iterator[Finding]:
    gateway = manifest.gateway
    if gateway is None:
        return
    if GATEWAY_COMPONENT in _names(manifest):
        what = f"'{GATEWAY_COMPONENT}' is the component that serves [gateway] and [[routes]]"
        yield ("components", GATEWAY_COMPONENT), what, "another name", ""
    if report.faulty(("gateway", "bind"), ("gateway", "tls"), ("gateway", "plaintext")):
        return
    if not gateway.loopback and not gateway.secure and not gateway.plaintext:
        what = f"other machines reach {gateway.bind}, and nothing is encrypted"
        yield ("gateway", "bind"), what, "tls = { certificate, key }, a loopback address, or plaintext = true", ""


def _in_secrets(manifest: Manifest, report: Report) -> Iterator[Finding]:
    """A file of which the node reads a secret must lie where no walled shard could move it, or put a link in its place."""
    folder = os.path.dirname(os.path.abspath(manifest.path))
    written = [
        (f"{os.path.normpath(os.path.join(folder, name))}/", component.name)
        for component in manifest.components
        if component.isolation != "process" and not report.faulty(("components", component.name, "files"))
        for name in component.files.write
    ]
    for path, file in _secret_files(manifest, report):
        real = os.path.normpath(os.path.join(folder, file))
        place, name = next(((place, name) for place, name in written if f"{real}/".startswith(place)), ("", ""))
        if place:
            what = f"shards of '{name}' may write to {place.rstrip('/')}, where it lies"
            yield path, what, "a file outside of what components' files.write names", ""


def _secret_files(manifest: Manifest, report: Report) -> Iterator[tuple[KeyPath, str]]:
    found: list[tuple[KeyPath, str]] = [
        (("components", component.name, "secrets", name), source)
        for component in manifest.components
        for name, source in component.secrets.items()
    ]
    gateway = manifest.gateway
    if gateway is not None:
        found.append((("gateway", "token"), gateway.token))
        found += [(("gateway", "tls"), f"file:{path}") for path in (gateway.certificate, gateway.key) if path]
    for path, source in found:
        if not report.faulty(path) and source.startswith("file:"):
            yield path, source.removeprefix("file:")
