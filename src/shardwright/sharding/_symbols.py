"""What a module binds at its top level, and the names behind names: imports, re-exports, aliases."""

from __future__ import annotations

import ast
import builtins
import dataclasses
from enum import Enum, auto

from msgspec import Struct, field

from shardwright.sharding._source import SourceModule, SourceTree

_BUILTINS = frozenset(dir(builtins))
# calls that make value classes
CLASS_FACTORIES = frozenset({
    "collections.namedtuple", "typing.NamedTuple", "typing.TypedDict", "enum.Enum", "enum.IntEnum", "enum.StrEnum",
    "enum.Flag", "enum.IntFlag", "dataclasses.make_dataclass",
})  # fmt: skip


class Bind(Enum):
    """How a name is bound."""

    FUNCTION = auto()
    CLASS = auto()
    IMPORT = auto()  # the name is a module
    FROM = auto()  # the name comes out of a module
    ASSIGN = auto()
    OTHER = auto()  # loop variable, with target, ...


@dataclasses.dataclass(frozen=True, slots=True)
class Ref:
    """A name with its home: ``module`` and the dotted name inside it (empty for the module itself).

    ``held``: reached through an object of the class that the name begins with, so that it is no global.
    """

    module: str
    name: str = ""
    held: bool = dataclasses.field(default=False, compare=False)

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.module}:{self.name}" if self.name else self.module


class Binding(Struct):
    """One binding of a top-level name. ``value`` is the expression assigned, where there is one."""

    kind: Bind
    node: ast.AST
    line: int
    ref: Ref | None = None
    value: ast.expr | None = None
    conditional: bool = False
    type_only: bool = False


class Symbols(Struct):
    """All top-level bindings of a module, in source order, and the modules it star-imports."""

    module: SourceModule
    bindings: dict[str, list[Binding]] = field(default_factory=dict)
    stars: list[tuple[str, int]] = field(default_factory=list)
    exports: tuple[str, ...] | None = None  # a literal ``__all__``

    def last(self, name: str) -> Binding | None:
        """The binding that counts: the last one, except that fall-backs behind ``except ImportError`` give way."""
        found = self.bindings.get(name)
        if not found:
            return None
        real = [binding for binding in found if not binding.type_only] or found
        for binding in reversed(real):
            if not binding.conditional:
                return binding
        for binding in real:  # all conditional: a definition tells more than `name = None`
            if binding.kind in (Bind.FUNCTION, Bind.CLASS):
                return binding
        return real[0]

    @property
    def is_dynamic(self) -> bool:
        """Whether names may exist that cannot be seen."""
        return "__getattr__" in self.bindings or bool(self.stars)


def symbols_of(module: SourceModule) -> Symbols:
    """Collects the bindings of a module, also those inside top-level ``if``, ``try``, ``with`` and loops."""
    symbols = Symbols(module)
    _collect(symbols, module.tree.body, False, False)
    return symbols


def is_type_checking(test: ast.expr) -> bool:
    """Whether an ``if`` test is ``TYPE_CHECKING``."""
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def is_main_guard(test: ast.expr) -> bool:
    """Whether an ``if`` test is ``__name__ == "__main__"``."""
    return isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and test.left.id == "__name__"


def target_names(target: ast.expr) -> list[str]:
    """The plain names that an assignment target binds."""
    if isinstance(target, ast.Name):
        return [target.id]
    if isinstance(target, ast.Starred):
        return target_names(target.value)
    if isinstance(target, ast.Tuple | ast.List):
        return [name for element in target.elts for name in target_names(element)]
    return []


def import_bindings(
    module: SourceModule, statement: ast.Import | ast.ImportFrom
) -> list[tuple[str, Bind, Ref, ast.alias]]:
    """``(local name, kind, target, alias)`` for each plain name of an import; stars are left out."""
    found = []
    for alias in statement.names:
        if isinstance(statement, ast.Import):
            if alias.asname:
                found.append((alias.asname, Bind.IMPORT, Ref(alias.name), alias))
            else:
                found.append((alias.name.partition(".")[0], Bind.IMPORT, Ref(alias.name.partition(".")[0]), alias))
        elif alias.name != "*":
            source = module.absolute(statement.module, statement.level)
            found.append((alias.asname or alias.name, Bind.FROM, Ref(source, alias.name), alias))
    return found


def _collect(symbols: Symbols, body: list[ast.stmt], conditional: bool, type_only: bool) -> None:
    def bind(name: str, kind: Bind, node: ast.AST, ref: Ref | None = None, value: ast.expr | None = None) -> None:
        line = getattr(node, "lineno", 1)
        symbols.bindings.setdefault(name, []).append(Binding(kind, node, line, ref, value, conditional, type_only))

    for statement in body:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                bind(statement.name, Bind.FUNCTION, statement)
            case ast.ClassDef():
                bind(statement.name, Bind.CLASS, statement)
            case ast.Import() | ast.ImportFrom():
                for name, kind, ref, _ in import_bindings(symbols.module, statement):
                    bind(name, kind, statement, ref)
                if isinstance(statement, ast.ImportFrom) and statement.names[0].name == "*" and not type_only:
                    source = symbols.module.absolute(statement.module, statement.level)
                    symbols.stars.append((source, statement.lineno))
            case ast.Assign():
                for target in statement.targets:
                    plain = isinstance(target, ast.Name)
                    for name in target_names(target):
                        bind(name, Bind.ASSIGN, statement, None, statement.value if plain else None)
                        if name == "__all__" and plain:
                            symbols.exports = _literal_names(statement.value)
            case ast.AnnAssign(target=ast.Name(id=name)):
                if statement.value is not None:
                    bind(name, Bind.ASSIGN, statement, None, statement.value)
                    if name == "__all__":
                        symbols.exports = _literal_names(statement.value)
            case ast.AugAssign(target=ast.Name(id=name)):
                if name == "__all__" and symbols.exports is not None:
                    more = _literal_names(statement.value)
                    symbols.exports = None if more is None else symbols.exports + more
            case ast.If():
                typed = is_type_checking(statement.test)
                _collect(symbols, statement.body, conditional or not typed, type_only or typed)
                _collect(symbols, statement.orelse, conditional or not typed, type_only)
            case ast.Try() | ast.TryStar():
                _collect(symbols, statement.body, True, type_only)
                for handler in statement.handlers:
                    _collect(symbols, handler.body, True, type_only)
                _collect(symbols, statement.orelse, True, type_only)
                _collect(symbols, statement.finalbody, conditional, type_only)
            case ast.With():
                for item in statement.items:
                    for name in target_names(item.optional_vars) if item.optional_vars else ():
                        bind(name, Bind.OTHER, statement)
                _collect(symbols, statement.body, conditional, type_only)
            case ast.For():
                for name in target_names(statement.target):
                    bind(name, Bind.OTHER, statement)
                _collect(symbols, statement.body, True, type_only)
                _collect(symbols, statement.orelse, True, type_only)
            case ast.While():
                _collect(symbols, statement.body, True, type_only)
            case _:
                alias = getattr(statement, "name", None)  # PEP 695 `type X = ...`
                if isinstance(alias, ast.Name):
                    bind(alias.id, Bind.ASSIGN, statement)


def _literal_names(value: ast.expr) -> tuple[str, ...] | None:
    try:
        names = ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError):
        return None
    if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None


class Resolver:
    """Follows names through imports, re-exports and plain aliases to where they are defined.

    ``demanded`` collects, by module, the top-level names that other modules ask it for.
    """

    def __init__(self, tree: SourceTree) -> None:
        self.tree = tree
        self._symbols: dict[str, Symbols] = {}
        self.demanded: dict[str, set[str]] = {}

    def symbols(self, module: str) -> Symbols | None:
        """The symbols of a module of the application, else ``None``."""
        known = self._symbols.get(module)
        if known is None:
            source = self.tree.load(module)
            if source is None:
                return None
            known = self._symbols[module] = symbols_of(source)
        return known

    def is_module(self, name: str) -> bool:
        """Whether the application has a module of that name."""
        return self.tree.locate(name) is not None

    def top_level(self, module: str, name: str) -> Ref | None:
        """What a bare name means at the top level of a module: its home, a builtin, or ``None`` if unknown."""
        return self._follow(module, name, set(), demand=False)

    def attribute(self, module: str, name: str) -> Ref:
        """What ``module.name`` means, seen from outside; unknown names stay with the module asked."""
        if self.tree.locate(module) is None:
            return Ref(module, name)
        found = self._follow(module, name, set(), demand=True)
        if found is None or (found.module == "builtins" and self.tree.locate(module) is not None):
            return Ref(f"{module}.{name}") if self.is_module(f"{module}.{name}") else Ref(module, name)
        return found

    def member(self, base: Ref, name: str) -> Ref:
        """One attribute further."""
        return Ref(base.module, f"{base.name}.{name}", base.held) if base.name else self.attribute(base.module, name)

    def canonical(self, ref: Ref) -> Ref:
        """The home of a reference as an import statement wrote it."""
        if not ref.name:
            return ref
        first, _, rest = ref.name.partition(".")
        home = self.attribute(ref.module, first)
        for part in rest.split(".") if rest else ():
            home = self.member(home, part)
        return home

    def _follow(self, module: str, name: str, seen: set[tuple[str, str]], *, demand: bool) -> Ref | None:
        if (module, name) in seen:
            return None
        seen.add((module, name))
        symbols = self.symbols(module)
        if symbols is None:  # a namespace package holds modules and nothing else
            return Ref(f"{module}.{name}") if self.is_module(f"{module}.{name}") else Ref(module, name)
        binding = symbols.last(name)
        if binding is None:
            for star, _ in symbols.stars:
                if self.tree.locate(star) is None:
                    continue
                exported = self.exported(star)
                if exported is not None and name in exported:
                    found = self._follow(star, name, seen, demand=True)
                    if found is not None and found.module != "builtins":
                        return found
            if self.is_module(f"{module}.{name}") and demand:
                return Ref(f"{module}.{name}")
            return Ref("builtins", name) if name in _BUILTINS else None
        if demand:
            self.demanded.setdefault(module, set()).add(name)
        if binding.kind is Bind.IMPORT and binding.ref is not None:
            return binding.ref
        if binding.kind is Bind.FROM and binding.ref is not None:
            target = binding.ref
            if self.tree.locate(target.module) is None:
                return target
            found = self._follow(target.module, target.name, seen, demand=True)
            if found is None or found.module == "builtins":
                inner = f"{target.module}.{target.name}"
                return Ref(inner) if self.is_module(inner) else target
            return found
        if binding.kind is Bind.ASSIGN and isinstance(binding.value, ast.Name) and binding.value.id != name:
            aliased = symbols.last(binding.value.id)  # `f = g`: the same thing under a second name
            if aliased is not None and aliased.kind in (Bind.FUNCTION, Bind.CLASS, Bind.FROM, Bind.IMPORT):
                return self._follow(module, binding.value.id, seen, demand=demand)
        return Ref(module, name)

    def exported(self, module: str) -> set[str] | None:
        """The names that ``from module import *`` brings; ``None`` for modules outside the application."""
        return self._exported(module, set())

    def _exported(self, module: str, seen: set[str]) -> set[str] | None:
        symbols = self.symbols(module)
        if symbols is None or module in seen:
            return None if symbols is None else set()
        seen.add(module)
        if symbols.exports is not None:
            return set(symbols.exports)
        names = {name for name in symbols.bindings if not name.startswith("_")}
        for star, _ in symbols.stars:
            names |= self._exported(star, seen) or set()
        return names

    def binding(self, ref: Ref) -> Binding | None:
        """The binding of the first part of a reference in its home module."""
        symbols = self.symbols(ref.module)
        return symbols.last(ref.top) if symbols is not None and ref.name else None

    def class_node(self, ref: Ref) -> ast.ClassDef | None:
        """The class statement behind a reference (nested classes too)."""
        binding = self.binding(ref)
        if binding is None or not isinstance(binding.node, ast.ClassDef):
            return None
        node = binding.node
        for part in ref.name.split(".")[1:]:
            for statement in node.body:
                if isinstance(statement, ast.ClassDef) and statement.name == part:
                    node = statement
                    break
            else:
                return None
        return node

    def made_class(self, ref: Ref) -> str:
        """The factory behind a class made by a call, such as ``P = namedtuple("P", "x y")``; empty for all else."""
        binding = self.binding(ref)
        if (
            binding is None
            or binding.kind is not Bind.ASSIGN
            or "." in ref.name
            or not isinstance(binding.value, ast.Call)
        ):
            return ""
        called = self.expression(ref.module, binding.value.func)
        known = f"{called.module}.{called.name}" if called is not None else ""
        return known if known in CLASS_FACTORIES else ""

    def expression(self, module: str, node: ast.expr) -> Ref | None:
        """What a dotted name at the top level of a module means; ``None`` for other expressions."""
        if isinstance(node, ast.Name):
            return self.top_level(module, node.id)
        if isinstance(node, ast.Attribute):
            base = self.expression(module, node.value)
            return None if base is None else self.member(base, node.attr)
        if isinstance(node, ast.Subscript):  # Generic[T]
            return self.expression(module, node.value)
        return None
