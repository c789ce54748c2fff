"""The modules, classes and functions of the packages under analysis, and the scopes that names live in.

Which names a scope binds, and where a name of an inner scope comes from, is asked of the compiler's own `symtable`.
"""

from __future__ import annotations

import ast
import symtable
from dataclasses import dataclass, field

from shardwright.sharding._functions import yields
from shardwright.sharding._source import SourceModule
from shardwright.sharding.callgraph._values import PropertyValue, Slot, Value

Def = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_PLAIN = {"function", "lambda", "class"}


class Scope:
    """A namespace: of a module, a class body or a function. ``table`` is the compiler's view of it."""

    __slots__ = ("code", "kind", "names", "owner", "parent", "table")

    def __init__(
        self, kind: str, table: symtable.SymbolTable | None, parent: Scope | None, code: Function, owner: Class | None
    ) -> None:
        self.kind = kind  # module, class, function
        self.table = table
        self.parent = parent
        self.code = code  # the function (or module) whose frame runs it; class bodies count to what is around them
        self.owner = owner  # the class whose body this is
        self.names: dict[str, Slot] = {}

    def slot(self, name: str) -> Slot:
        slot = self.names.get(name)
        if slot is None:
            slot = self.names[name] = Slot()
        return slot


class Function:
    """A function, method or lambda; or the body of a module (``kind`` "module"), which is a vertex too."""

    __slots__ = (
        "cells",
        "code_line",
        "is_async",
        "is_generator",
        "keyword_rest",
        "kind",
        "line",
        "module",
        "name",
        "named",
        "node",
        "owner",
        "plain",
        "positional",
        "qualname",
        "rest",
        "returns",
        "scope",
        "yields",
    )  # fmt: skip

    def __init__(self, module: Module, name: str, qualname: str, node: Def | None, owner: Class | None) -> None:
        self.module, self.name, self.qualname, self.node, self.owner = module, name, qualname, node, owner
        self.kind = "module" if node is None else "lambda" if isinstance(node, ast.Lambda) else "function"
        decorators = getattr(node, "decorator_list", [])
        self.line = node.lineno if node is not None else 0
        self.code_line = min([self.line, *(item.lineno for item in decorators)])  # as code objects count
        self.is_async = isinstance(node, ast.AsyncFunctionDef)
        self.is_generator = node is not None and _yields(node)
        self.positional: list[str] = []
        self.named: dict[str, Slot] = {}  # every parameter that may be passed by name, and positional-only ones
        self.rest: Value | None = None  # the box of *args
        self.keyword_rest: Value | None = None  # the box of **kwargs
        self.returns, self.yields = Slot(), Slot()
        self.scope: Scope | None = None
        self.plain = True  # not a static method nor a class method

    def __repr__(self) -> str:
        return f"<Function {self.id}>"

    @property
    def id(self) -> str:
        return f"{self.module.name}:{self.qualname}"


class Class:
    """A class statement. ``bases`` are classes of the application and the dotted paths of others."""

    __slots__ = (
        "attributes", "bases", "below", "body", "box", "instance_line", "metaclass", "module", "mro", "name", "node",
        "qualname", "scope", "views",
    )  # fmt: skip

    def __init__(self, module: Module, node: ast.ClassDef, qualname: str) -> None:
        self.module, self.node, self.name, self.qualname = module, node, node.name, qualname
        self.bases: list[Class | str] = []
        self.metaclass: Class | str | None = None
        self.mro: list[Class | str] = [self]
        self.below: list[Class] = []  # all subclasses, in order of definition
        self.body: dict[str, Slot] = {}  # the names of the class body
        self.attributes: dict[str, Slot] = {}  # what is stored into instances
        self.views: dict[tuple[str, str], Slot] = {}
        self.box: Value | None = None  # what instances hold as containers, where a base is list, dict, ...
        self.scope: Scope | None = None

    def __repr__(self) -> str:
        return f"<Class {self.id}>"

    @property
    def id(self) -> str:
        return f"{self.module.name}:{self.qualname}"

    @property
    def inside(self) -> list[Class]:
        """The part of the method resolution order that is of the application."""
        return [item for item in self.mro if isinstance(item, Class)]

    @property
    def outside(self) -> list[str]:
        return [item for item in self.mro if isinstance(item, str)]


@dataclass(slots=True, eq=False)
class Module:
    """A module with everything in it."""

    source: SourceModule
    body: Function = field(init=False)
    scope: Scope = field(init=False)
    functions: dict[ast.AST, Function] = field(default_factory=dict)
    classes: dict[ast.AST, Class] = field(default_factory=dict)
    tables: dict[ast.AST, symtable.SymbolTable] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    properties: dict[ast.AST, PropertyValue] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.source.name


def _yields(node: Def) -> bool:
    if isinstance(node, ast.Lambda):
        return any(isinstance(item, ast.Yield | ast.YieldFrom) for item in ast.walk(node.body))
    return yields(node)


def declare(source: SourceModule) -> Module:
    """The functions and classes of a module, without looking into what they do."""
    module = Module(source)
    module.body = Function(module, "<module>", "<module>", None, None)
    top = symtable.symtable(source.text, source.relative, "exec")
    module.scope = module.body.scope = Scope("module", top, None, module.body, None)
    _Declare(module, top).body(source.tree.body, "", None)
    return module


class _Declare:
    """Walks in the order in which the compiler makes its tables, and pairs both."""

    def __init__(self, module: Module, top: symtable.SymbolTable) -> None:
        self.module = module
        self.tables: dict[tuple[str, int], list[symtable.SymbolTable]] = {}
        self._index(top)

    def _index(self, table: symtable.SymbolTable) -> None:
        todo = [table]
        while todo:
            item = todo.pop()
            for child in item.get_children():
                self.tables.setdefault((child.get_name(), child.get_lineno()), []).append(child)
            todo += item.get_children()

    def _pair(self, node: ast.AST, name: str) -> None:
        decorators = getattr(node, "decorator_list", [])
        for line in (getattr(node, "lineno", 0), *(item.lineno for item in decorators)):
            found = self.tables.get((name, line))
            if found:
                kinds = [table for table in found if str(table.get_type()) in _PLAIN]
                if kinds:
                    found.remove(kinds[0])
                    self.module.tables[node] = kinds[0]
                    return

    def body(self, nodes: list[ast.stmt], prefix: str, owner: Class | None) -> None:
        for node in nodes:
            self.visit(node, prefix, owner)

    def visit(self, node: ast.AST, prefix: str, owner: Class | None) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self.visit_parts(node, prefix, owner, node.decorator_list)
                self.arguments(node.args, prefix, owner)
                self.function(node, node.name, prefix, owner)
                self.body(node.body, f"{prefix}{node.name}.<locals>.", None)
            case ast.Lambda():
                self.arguments(node.args, prefix, owner)
                self.function(node, "<lambda>", prefix, owner)
                self.visit(node.body, f"{prefix}<lambda>.<locals>.", None)
            case ast.ClassDef():
                self.visit_parts(node, prefix, owner, [*node.decorator_list, *node.bases])
                self.visit_parts(node, prefix, owner, [keyword.value for keyword in node.keywords])
                made = Class(self.module, node, prefix + node.name)
                self.module.classes[node] = made
                self._pair(node, node.name)
                self.body(node.body, f"{prefix}{node.name}.", made)
            case ast.Constant() | ast.Name():
                return
            case _:
                for child in ast.iter_child_nodes(node):
                    self.visit(child, prefix, owner)

    def visit_parts(self, node: ast.AST, prefix: str, owner: Class | None, parts: list[ast.expr]) -> None:
        for part in parts:
            self.visit(part, prefix, owner)

    def arguments(self, arguments: ast.arguments, prefix: str, owner: Class | None) -> None:
        for default in (*arguments.defaults, *arguments.kw_defaults):
            if default is not None:
                self.visit(default, prefix, owner)

    def function(self, node: Def, name: str, prefix: str, owner: Class | None) -> None:
        made = Function(self.module, name, prefix + name, node, owner)
        self.module.functions[node] = made
        self._pair(node, "lambda" if name == "<lambda>" else name)
