"""Names: which slot one stands for where it is read, where it is written, and what an import binds it to."""

from __future__ import annotations

import ast
import builtins

from shardwright.sharding._symbols import Ref, import_bindings
from shardwright.sharding.callgraph._analysis import Analysis
from shardwright.sharding.callgraph._code import Module, Scope
from shardwright.sharding.callgraph._values import Slot

_BUILTINS = frozenset(dir(builtins))


class Names:
    """Looks names up from ``scope``, the one that is walked."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.solver = analysis.solver
        self.scope: Scope = next(iter(analysis.modules.values())).scope if analysis.modules else None  # type: ignore[assignment]

    def module_slot(self, module: Module, name: str) -> Slot:
        """A global; where the module does not bind it, of the modules that it star-imports."""
        known = module.scope.names.get(name)
        if known is not None:
            return known
        slot = module.scope.slot(name)
        symbols = self.analysis.resolver.symbols(module.name)
        if symbols is None or name not in symbols.bindings:
            for star, _ in symbols.stars if symbols is not None else ():
                other = self.analysis.modules.get(star)
                if other is not None and other is not module:
                    self.solver.flow(self.module_slot(other, name), slot)
        return slot

    def lookup(self, name: str) -> Slot:
        scope: Scope | None = self.scope
        innermost = True
        while scope is not None:
            if scope.kind == "module":
                break
            if scope.table is None:  # a comprehension
                if name in scope.names:
                    return scope.names[name]
            elif scope.kind == "function" or innermost:
                if self._binds(scope, name):
                    return scope.slot(name)
                if self._is_global(scope, name):
                    break
            innermost = innermost and scope.table is None
            scope = scope.parent
        module = self.scope.code.module
        symbols = self.analysis.resolver.symbols(module.name)
        if name in _BUILTINS and name not in module.scope.names and (symbols is None or name not in symbols.bindings):
            return Slot(self.analysis.outside(f"builtins.{name}"))
        return self.module_slot(module, name)

    @staticmethod
    def _binds(scope: Scope, name: str) -> bool:
        if name in scope.names:
            return True
        assert scope.table is not None
        try:
            return scope.table.lookup(name).is_local()
        except KeyError:
            return False

    @staticmethod
    def _is_global(scope: Scope, name: str) -> bool:
        assert scope.table is not None
        try:
            return scope.table.lookup(name).is_declared_global()
        except KeyError:
            return False

    def target_slot(self, name: str) -> Slot:
        """The slot that an assignment to a name writes."""
        scope: Scope | None = self.scope
        while scope is not None and scope.table is None and scope.kind != "module":
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        assert scope is not None
        if scope.kind != "module" and scope.table is not None:
            try:
                symbol = scope.table.lookup(name)
            except KeyError:
                return scope.slot(name)
            if symbol.is_declared_global():
                return self.module_slot(scope.code.module, name)
            if symbol.is_nonlocal() or (symbol.is_free() and not symbol.is_local()):
                return self.lookup(name)
        return scope.slot(name)

    def imports(self, node: ast.Import | ast.ImportFrom) -> None:
        source = self.scope.code.module.source
        for name, _, ref, _ in import_bindings(source, node):
            target = self.target_slot(name)
            if not ref.name:
                inside = ref.module in self.analysis.modules
                value = self.analysis.module(ref.module) if inside else self.analysis.outside(ref.module)
                self.solver.add(target, value)
                continue
            self.solver.flow(self.imported(ref.module, ref.name), target)

    def imported(self, module: str, name: str) -> Slot:
        """What ``from module import name`` gives."""
        inside = self.analysis.modules.get(module)
        if f"{module}.{name}" in self.analysis.modules:
            symbols = self.analysis.resolver.symbols(module)
            binding = symbols.last(name) if symbols is not None else None
            if binding is None or binding.ref == Ref(module, name):  # `from package import submodule` in the package
                return Slot(self.analysis.module(f"{module}.{name}"))
        if inside is None:
            return Slot(self.analysis.outside(f"{module}.{name}"))
        return self.module_slot(inside, name)
