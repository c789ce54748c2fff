"""The application as analysis sees it: its modules, who owns each, and what each component's code consists of."""

from __future__ import annotations

import ast
import re
import sys

from shardwright.errors import PlanError
from shardwright.model.ids import ComponentName
from shardwright.model.manifest import Component, Manifest
from shardwright.model.shard import MAIN_COMPONENT
from shardwright.sharding._classes import ClassBook, classes_in
from shardwright.sharding._functions import made_by_call
from shardwright.sharding._scan import scan
from shardwright.sharding._scanned import Scan, Use, UseKind
from shardwright.sharding._source import SourceModule, SourceTree, nearest
from shardwright.sharding._symbols import Bind, Ref, Resolver

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


class Program:
    """Modules, owners and classes of one application. Raises PlanError when the manifest does not fit the code."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.tree = SourceTree(manifest.root, tuple(sys.path))
        self.resolver = Resolver(self.tree)
        self.owners: dict[str, ComponentName] = {}
        self._scans: dict[str, Scan] = {}
        self._named: dict[str, tuple[str, ...]] = {}
        self._claim()
        self.main_module = self._main_module()
        self.common = self._find_common()
        self._late_writes = self._find_late_writes()
        self.classes = ClassBook(self.resolver, self._declared, self.owners.__contains__, self._class_global_writes)
        self._check_classes_named()

    def __repr__(self) -> str:
        return f"<Program {self.manifest.app!r}: {len(self.owners)} owned and {len(self.common)} common modules>"

    # -- modules and owners --------------------------------------------------------------------------------------

    def _claim(self) -> None:
        claims: dict[str, Component] = {}
        for component in self.manifest.components:
            other = claims.get(component.module)
            if other is not None:
                raise PlanError(
                    f"components {other.name!r} and {component.name!r} both own module {component.module!r}",
                    code="SW206",
                    remedy="give each component modules of its own",
                )
            claims[component.module] = component
        for name, component in claims.items():
            place = self.tree.adopt(name)
            if place is None:
                near = self.tree.nearest(name)
                raise PlanError(
                    f"component {component.name!r}: no module {name!r} below {self.manifest.root}",
                    code="SW203",
                    remedy=f"did you mean {near!r}?" if near else "check `code` and `app.root`",
                )
            if not place.has_source:
                raise PlanError(
                    f"component {component.name!r}: module {name!r} has no Python source",
                    code="SW205",
                    remedy="leave compiled modules common, and own a Python module that uses them",
                )
        for name in sorted(claims):
            for module in (name, *self.tree.beneath(name)):
                if self.tree.load(module) is not None:
                    self.owners[module] = claims[_closest(module, claims)].name

    def _main_module(self) -> SourceModule | None:
        """The module of the implicit component that runs ``app.main``; ``None`` when a component owns it."""
        if not self.manifest.main:
            return None
        name, _, attribute = self.manifest.main.partition(":")
        module = self.module_named(name, "app.main")
        if attribute:
            self.require(name, attribute, "app.main")
        if name in self.owners:
            return None
        if any(component.name == MAIN_COMPONENT for component in self.manifest.components):
            raise PlanError(
                f"component {MAIN_COMPONENT!r} does not own module {name!r} of app.main",
                code="SW206",
                remedy=f"rename the component, or let it own {name!r}",
            )
        return module

    def module_named(self, name: str, asked_by: str) -> SourceModule:
        """The module, or PlanError with the nearest one that exists."""
        module = self.tree.load(name)
        if module is None:
            near = self.tree.nearest(name)
            raise PlanError(
                f"{asked_by}: no module {name!r} below {self.manifest.root}",
                code="SW203",
                remedy=f"did you mean {near!r}?" if near else "check the name and `app.root`",
            )
        return module

    def require(self, module: str, attribute: str, asked_by: str) -> None:
        """PlanError with the nearest name when a module certainly lacks an attribute."""
        symbols = self.resolver.symbols(module)
        if symbols is None or symbols.is_dynamic:
            return
        name, _, rest = attribute.partition(".")
        known = set(symbols.bindings)
        if name in known and rest and symbols.bindings[name][-1].kind is Bind.CLASS:
            node = self.resolver.class_node(Ref(module, name))
            members = {getattr(item, "name", "") for item in node.body} if node is not None else {rest}
            if rest.partition(".")[0] in members:
                return
            name, known = rest, members - {""}
        elif name in known or self.resolver.is_module(f"{module}.{name}"):
            return
        near = nearest(name, known)
        raise PlanError(
            f"{asked_by}: {symbols.module.relative} defines no {attribute!r}",
            code="SW204",
            remedy=f"did you mean {near!r}?" if near else f"define {attribute!r} in {symbols.module.relative}",
        )

    def _find_common(self) -> dict[str, SourceModule]:
        """Common modules: whatever the application's code reaches, and the rest of the packages it reaches."""
        starts = [*self.owners, *([self.main_module.name] if self.main_module is not None else [])]
        reached: set[str] = set()
        todo = list(starts)
        for name in starts:
            todo += _ancestors(name)
        while todo:
            name = todo.pop()
            if name in reached or self.tree.load(name) is None:
                continue
            reached.add(name)
            todo += [target for target, _ in self.scan(name).imports]
        for top in sorted({name.partition(".")[0] for name in reached}):
            for name in (top, *self.tree.beneath(top)):
                try:
                    if self.tree.load(name) is not None:
                        reached.add(name)
                except PlanError:  # a file that nobody imports
                    continue
        return {name: self.tree.loaded[name] for name in sorted(reached) if name not in self.owners}

    def component(self, name: str) -> Component:
        return self.manifest.component(name)

    def owned_by(self, component: str) -> tuple[str, ...]:
        return tuple(sorted(name for name, owner in self.owners.items() if owner == component))

    def starts_of(self, component: str) -> tuple[str, ...]:
        """The modules that a shard of the component imports for itself."""
        if component == MAIN_COMPONENT and self.main_module is not None:
            return (self.main_module.name,)
        return self.owned_by(component)

    def scan(self, module: str) -> Scan:
        """The findings of one module, made once."""
        found = self._scans.get(module)
        if found is None:
            source = self.tree.load(module)
            assert source is not None
            found = self._scans[module] = scan(self.resolver, source)
        return found

    def code_of(self, component: str) -> tuple[str, ...]:
        """The modules whose code a shard of the component runs: its own and the common ones imported."""
        seen: set[str] = set()
        todo = list(self.starts_of(component))
        for name in tuple(todo):
            todo += _ancestors(name)
        while todo:
            name = todo.pop()
            if name in seen or self.tree.load(name) is None:
                continue
            owner = self.owners.get(name)
            if owner is not None and owner != component:
                continue
            seen.add(name)
            todo += [target for target, _ in self.scan(name).imports]
            todo += self.named_in(name)
        return tuple(sorted(seen))

    def named_in(self, module: str) -> tuple[str, ...]:
        """Modules of the application whose dotted names are texts in the module, alone or with an attribute behind them.

        So frameworks are told what to import: Django's settings, ``ROOT_URLCONF``, ``MIDDLEWARE``, ``include("shop.urls")``.
        """
        known = self._named.get(module)
        if known is None:
            source = self.tree.load(module)
            assert source is not None
            found: dict[str, None] = {}
            for node in ast.walk(source.tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and _DOTTED.fullmatch(node.value):
                    for name in (node.value, node.value.rpartition(".")[0]):
                        if name in self.owners or name in self.common:
                            found[name] = None
                            break
            known = self._named[module] = tuple(found)
        return known

    # -- writes after import -------------------------------------------------------------------------------------

    def _find_late_writes(self) -> dict[Ref, list[tuple[str, Use]]]:
        found: dict[Ref, list[tuple[str, Use]]] = {}
        for name in sorted({*self.owners, *self.common}):
            for use in self.scan(name).uses:
                if use.kind not in (UseKind.WRITE, UseKind.MUTATE):
                    continue
                if not use.deferred and use.ref.module == name:
                    continue
                binding = self.resolver.binding(use.ref)
                if use.kind is UseKind.MUTATE and (
                    binding is None or binding.kind in (Bind.FUNCTION, Bind.FROM, Bind.IMPORT)
                ):
                    continue
                found.setdefault(Ref(use.ref.module, use.ref.top), []).append((name, use))
        return found

    def late_writes(self, ref: Ref) -> list[tuple[str, Use]]:
        """``(module, use)`` for each write of a module global after import, or from another module."""
        return self._late_writes.get(Ref(ref.module, ref.top), [])

    @property
    def written_globals(self) -> dict[Ref, list[tuple[str, Use]]]:
        return self._late_writes

    def _class_global_writes(self, ref: Ref) -> list[int]:
        return [
            use.line
            for use in self.scan(ref.module).uses
            if use.top == ref.top
            and use.deferred
            and use.kind in (UseKind.WRITE, UseKind.MUTATE)
            and use.ref.module == ref.module
            and use.ref.top != ref.top
            and (binding := self.resolver.binding(use.ref)) is not None
            and binding.kind in (Bind.ASSIGN, Bind.OTHER)
        ]

    # -- classes -------------------------------------------------------------------------------------------------

    def _declared(self, ref: Ref) -> str:
        owner = self.owners.get(ref.module)
        if owner is None:
            return ""
        component = self.component(owner)
        names = {ref.name, f"{ref.module}:{ref.name}", f"{ref.module}.{ref.name}"}
        if ref.module.startswith(component.module + "."):
            names.add(f"{ref.module[len(component.module) + 1 :]}.{ref.name}")
        if names & set(component.value):
            return "value"
        if names & set(component.stateful):
            return "stateful"
        if component.attribute and self.resolver.attribute(component.module, component.attribute) == ref:
            return "stateful"
        return ""

    def _check_classes_named(self) -> None:
        for component in self.manifest.components:
            known: set[str] = set()
            for module in self.owned_by(component.name):
                for name, _ in classes_in(self.tree.loaded[module].tree):
                    known |= {name, f"{module}:{name}", f"{module}.{name}"}
                    if module.startswith(component.module + "."):
                        known.add(f"{module[len(component.module) + 1 :]}.{name}")
            for name in (*component.stateful, *component.value):
                if name not in known:
                    near = nearest(name, known)
                    raise PlanError(
                        f"component {component.name!r}: no class {name!r} in its code",
                        code="SW204",
                        remedy=f"did you mean {near!r}?" if near else "name a class of the component",
                    )

    def function_like(self, module: str, name: str) -> bool:
        """Whether a top-level name is something to call: a function, or made from one by a decorator."""
        symbols = self.resolver.symbols(module)
        binding = symbols.last(name) if symbols is not None else None
        if binding is None:
            return False
        if binding.kind is Bind.FUNCTION:
            return True
        return (
            binding.kind is Bind.ASSIGN
            and isinstance(binding.value, ast.expr)
            and made_by_call(self.resolver, module, name, binding.value) is not None
        )


def _closest(module: str, claims: dict[str, Component]) -> str:
    name = module
    while name not in claims:
        name = name.rpartition(".")[0]
    return name


def _ancestors(name: str) -> list[str]:
    found = []
    while "." in name:
        name = name.rpartition(".")[0]
        found.append(name)
    return found
