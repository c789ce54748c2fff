"""Which modules of other components a component's own code imports: their classes come to it with their code.

What the code names in an import statement, be it for type checkers alone, or as a whole text, is its own choice, and so is
what those modules in turn need. All else that a value brings along is shown as data (see ``_data``).
"""

from __future__ import annotations

import ast

from shardwright._syntax import parsed
from shardwright.model.ids import ComponentName
from shardwright.sharding._program import Program
from shardwright.sharding._symbols import Bind, import_bindings

_IMPORTERS = frozenset({"import_module", "__import__"})
_FINDERS = frozenset({"resolve_name", "spec_from_file_location", "run_module", "load_module"})


class Knowledge:
    """``stubs`` are the sources of the generated modules, by module."""

    def __init__(self, program: Program, stubs: dict[str, str]) -> None:
        self._program = program
        self._stubs = stubs
        self._named: dict[str, tuple[set[str], bool]] = {}

    def of(self, component: ComponentName) -> tuple[str, ...]:
        """Modules of others, sorted; all of them where the code imports modules whose names it computes."""
        owners = self._program.owners
        code = self._program.code_of(component)
        found: set[str] = set()
        todo: list[str] = []
        for module in code:
            named, computes = self._said(module)
            if computes:
                return tuple(sorted(name for name, owner in owners.items() if owner != component))
            todo += named
        seen = set(code)
        while todo:
            name = todo.pop()
            if name in seen or (name not in owners and name not in self._program.common):
                continue
            seen.add(name)
            if owners.get(name) == component:
                continue
            if name in owners:
                found.add(name)
                todo += self._of_text(name)
            else:
                todo += self._said(name)[0]
        return tuple(sorted(found))

    def _said(self, module: str) -> tuple[set[str], bool]:
        known = self._named.get(module)
        if known is None:
            source = self._program.tree.load(module)
            tree = source.tree if source is not None else ast.Module([], [])
            named = self._imports(module, tree)
            named |= {target for target, _ in self._program.scan(module).imports}
            named |= set(self._program.named_in(module))
            known = self._named[module] = with_packages(named), _computes(tree)
        return known

    def _of_text(self, module: str) -> set[str]:
        """What a generated module imports."""
        return with_packages(self._imports(module, parsed(self._stubs[module])) | {module})

    def _imports(self, module: str, tree: ast.Module) -> set[str]:
        source = self._program.tree.load(module)
        found: set[str] = set()
        for node in ast.walk(tree):
            if not isinstance(node, ast.Import | ast.ImportFrom) or source is None:
                continue
            if isinstance(node, ast.ImportFrom):
                found.add(source.absolute(node.module, node.level))
            for _, kind, ref, _ in import_bindings(source, node):
                home = self._program.resolver.canonical(ref) if kind is Bind.FROM else ref
                found |= {ref.module, home.module}
        return found


def with_packages(names: set[str]) -> set[str]:
    """Importing ``a.b`` imports ``a`` too."""
    found = set(names)
    for name in names:
        while "." in name:
            name = name.rpartition(".")[0]
            found.add(name)
    return found


def _computes(tree: ast.AST) -> bool:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[first, *_]):
                if name in _FINDERS or (name in _IMPORTERS and not isinstance(first, ast.Constant)):
                    return True
    return False
