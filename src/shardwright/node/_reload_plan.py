"""What of an application's code each component depends on, so that a reload replaces these components and no others.

A component's shard runs its own modules and the common ones that they import; of the modules that others own it has what
the plan generates. So it changed when the text of any of those did, or its definition, or what it must know of those it
calls and is called by. Imports are found by reading: a common module that is imported by a computed name alone is not seen.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from importlib.util import cache_from_source
from pathlib import Path

from msgspec.structs import replace

from shardwright._syntax import parsed
from shardwright.errors import NodeError
from shardwright.model.ids import ComponentName, MethodId
from shardwright.model.manifest import Manifest
from shardwright.model.scope import ScopeKind
from shardwright.model.shard import EntryPoint, ModuleSurface, ShardDefinition, ShardPlan


class Fingerprints:
    """A text for each component that is another one exactly when its shards are to be replaced. Reads the code."""

    def __init__(self, manifest: Manifest, plan: ShardPlan) -> None:
        self.tree = _Tree(plan)
        self.texts = {d.component: _fingerprint(manifest, plan, d, self.tree) for d in plan.definitions}

    def __repr__(self) -> str:
        return f"<Fingerprints of {len(self.texts)} components>"


def _fingerprint(manifest: Manifest, plan: ShardPlan, definition: ShardDefinition, tree: _Tree) -> str:
    name = definition.component
    modules = tree.reached(
        name, definition.code.modules or ((definition.code.primary,) if definition.code.primary else ())
    )
    edges = [edge for edge in plan.edges if name in (edge.caller, edge.callee)]
    near = {name} | {edge.caller for edge in edges} | {edge.callee for edge in edges}
    known = {*modules, *(surface.module for surface in plan.modules if surface.owner in near)}
    classes = [c for c in (*plan.value_classes, *plan.stateful_classes) if c.partition(":")[0] in known]
    declared = next((replace(c, line=0) for c in manifest.components if c.name == name), None)
    callees = [plan.definition(edge.callee) for edge in edges if edge.caller == name]
    told = (
        _without_places(definition),
        declared,
        sorted(modules.items()),
        sorted((edge.caller, edge.callee, edge.pickle, edge.classes) for edge in edges),
        [(c.component, str(c.scope), str(c.state), _keys(c)) for c in callees],
        classes,
        manifest.root,
        sorted({route.name for route in plan.routes if route.component == name}),  # what requests may call there
    )
    if not definition.code.modules and definition.code.primary and plan.routes:
        told = (*told, tuple(replace(route, method_id=MethodId(0)) for route in plan.routes))  # type: ignore[assignment]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def _without_places(definition: ShardDefinition) -> ShardDefinition:
    entries = tuple(replace(entry, line=0) for entry in definition.entry_points)
    return replace(definition, entry_points=entries, data_dependencies=())


def _keys(definition: ShardDefinition) -> object:
    if definition.scope.kind is not ScopeKind.KEY:
        return None
    return [(entry.name, entry.key) for entry in definition.entry_points]


class _Tree:
    """The modules below the import root, as files or as what is generated of them."""

    def __init__(self, plan: ShardPlan) -> None:
        self._root = Path(plan.root)
        self._surfaces = {surface.module: surface for surface in plan.modules}
        self._read: dict[tuple[str, bool], tuple[str, frozenset[str]] | None] = {}
        self._files: dict[str, str] = {}

    def forget_compiled(self, before: _Tree) -> None:
        """Remove what was compiled of files that changed: of two changes in a second with the same size of the file, the
        interpreter would not see the second.
        """
        for name, digest in self._files.items():
            if before._files.get(name) != digest:
                with contextlib.suppress(OSError, NotImplementedError):
                    os.unlink(cache_from_source(name))

    def reached(self, component: ComponentName, starts: tuple[str, ...]) -> Mapping[str, str]:
        """The modules that its shards import, each with a digest of what they get."""
        found: dict[str, str] = {}
        todo = list(starts)
        while todo:
            name = todo.pop()
            parent = name.rpartition(".")[0]
            if parent and parent not in found:
                todo.append(parent)
            if name in found:
                continue
            surface = self._surfaces.get(name)
            foreign = surface is not None and surface.owner != component
            read = self._module(name, surface if foreign else None)
            if read is not None:
                found[name] = read[0]
                todo += read[1]
        return found

    def _module(self, name: str, surface: ModuleSurface | None) -> tuple[str, frozenset[str]] | None:
        key = (name, surface is not None)
        if key not in self._read:
            self._read[key] = self._look(name, surface)
        return self._read[key]

    def _look(self, name: str, surface: ModuleSurface | None) -> tuple[str, frozenset[str]] | None:
        if surface is not None:
            data, package = surface.stub_source.encode(), surface.is_package
        else:
            base = self._root.joinpath(*name.split("."))
            path = next((p for p in (base / "__init__.py", base.with_suffix(".py")) if p.is_file()), None)
            if path is None:
                return None
            data, package = path.read_bytes(), path.name == "__init__.py"
            self._files[str(path)] = hashlib.sha256(data).hexdigest()
        try:
            imports = frozenset(_imports(parsed(data), name, package))
        except (SyntaxError, ValueError):  # nobody imports it, or the plan had not been made
            imports = frozenset()
        return hashlib.sha256(data).hexdigest(), imports


def _imports(tree: ast.Module, module: str, package: bool) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + (1 if package else 0)]
                base = ".".join([*parts, *([base] if base else [])])
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")


def check_replaceable(before: Manifest, after: Manifest, old: ShardPlan, new: ShardPlan) -> None:
    """Raises NodeError with everything that only a new node can take up."""
    why: list[str] = []
    if (before.app, before.root) != (after.app, after.root):
        why.append("the application's name or root")
    names, now = {d.component for d in old.definitions}, {d.component for d in new.definitions}
    why += [f"component {name} is new" for name in sorted(now - names)]
    why += [f"component {name} is gone" for name in sorted(names - now)]
    for name in sorted(names & now):
        was, will = old.definition(name), new.definition(name)
        if was.scope != will.scope:
            why.append(f"{name} has scope {will.scope} instead of {was.scope}")
        if was.isolation != will.isolation:
            why.append(f"{name} has isolation {will.isolation} instead of {was.isolation}")
    if (before.gateway, before.policy) != (after.gateway, after.policy):
        why.append("[gateway] or [policy]")
    if why:
        raise NodeError(
            f"a running node cannot take up what changed: {'; '.join(why)}",
            remedy="stop it and start it again; until then the old code goes on",
        )


def with_stable_numbers(new: ShardPlan, old: ShardPlan) -> ShardPlan:
    """The new plan with the old numbers of entry points, by which shards of both call each other for a while.

    What is gone keeps its number and its place: who still calls it hears from the module that it has no such thing. All
    that speaks of entry points by number, routes and cuts, is renumbered with them.
    """
    definitions = []
    numbers: dict[tuple[ComponentName, MethodId], MethodId] = {}  # of the new plan: as they are from now on
    for definition in new.definitions:
        try:
            before = old.definition(definition.component).entry_points
        except KeyError:
            before = ()
        by_name = {_identity(entry): entry for entry in definition.entry_points}
        entries: list[EntryPoint] = [by_name.pop(_identity(entry), entry) for entry in before]
        entries += by_name.values()
        stable = {_identity(entry): MethodId(number) for number, entry in enumerate(entries)}
        numbers |= {(definition.component, e.method_id): stable[_identity(e)] for e in definition.entry_points}
        numbered = tuple(replace(entry, method_id=MethodId(number)) for number, entry in enumerate(entries))
        definitions.append(replace(definition, entry_points=numbered))
    routes = tuple(replace(route, method_id=numbers[route.component, route.method_id]) for route in new.routes)
    cuts = tuple(
        replace(
            cut, functions=tuple(replace(each, method_id=numbers[cut.part, each.method_id]) for each in cut.functions)
        )
        for cut in new.cuts
    )
    return replace(new, definitions=tuple(definitions), routes=routes, cuts=cuts)


def _identity(entry: EntryPoint) -> tuple[str, str, str]:
    return entry.name, entry.module, entry.qualname
