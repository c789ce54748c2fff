"""What names stand for within a module: scopes, imports and simple local types (``x = World()``, annotations)."""

from __future__ import annotations

import ast

from msgspec import Struct

from shardwright._syntax import expression
from shardwright.sharding._source import SourceModule
from shardwright.sharding._symbols import Ref, Resolver


class Instance(Struct, frozen=True):
    """An object of a class of the application."""

    ref: Ref


Value = Ref | Instance | None


class Scope:
    """A function or class around what is walked over, and what its names are."""

    __slots__ = ("attributes", "classes", "globals", "is_class", "made", "names")

    def __init__(self, is_class: bool = False) -> None:
        self.names: dict[str, Value] = {}
        self.is_class = is_class
        self.globals: set[str] = set()
        self.attributes: dict[str, Value] = {}
        self.classes: set[str] = set()  # that the function itself makes
        self.made: dict[str, str] = {}  # names of objects of those


class Names:
    """Knows what an expression is, where the walk has come to."""

    def __init__(self, resolver: Resolver, module: SourceModule) -> None:
        self.resolver = resolver
        self.module = module
        self.scopes: list[Scope] = []
        self.values: dict[str, Value] = {}  # inferred types of module-level names

    def lookup(self, name: str) -> Value:
        innermost = True
        for scope in reversed(self.scopes):
            if name in scope.globals:
                break
            if name in scope.names and (innermost or not scope.is_class):
                return scope.names[name]
            innermost = False
        if name in self.values:
            return self.values[name]
        return self.resolver.top_level(self.module.name, name)

    def evaluate(self, node: ast.expr) -> Value:
        """What an expression is, as far as names, attributes and simple calls tell."""
        match node:
            case ast.Name(id=name):
                return self.lookup(name)
            case ast.Attribute(value=base, attr=attribute):
                if isinstance(base, ast.Name) and base.id in ("self", "cls"):
                    for scope in reversed(self.scopes):
                        if scope.is_class and attribute in scope.attributes:
                            return scope.attributes[attribute]
                inner = self.evaluate(base)
                if isinstance(inner, Instance):
                    return Ref(inner.ref.module, f"{inner.ref.name}.{attribute}", held=True)
                return self.resolver.member(inner, attribute) if isinstance(inner, Ref) else None
            case ast.Call(func=function, args=arguments):
                called = self.evaluate(function)
                if isinstance(called, Ref):
                    if called == Ref("importlib", "import_module") or called == Ref("builtins", "__import__"):
                        wanted = arguments[0] if arguments else None
                        if isinstance(wanted, ast.Constant) and isinstance(wanted.value, str):
                            return Ref(self._absolute(wanted.value))
                        return None
                    return self._result(called)
            case ast.Await(value=value) | ast.NamedExpr(value=value):
                return self.evaluate(value)
        return None

    def _absolute(self, name: str) -> str:
        dots = len(name) - len(name.lstrip("."))
        return self.module.absolute(name[dots:], dots) if dots else name

    def _result(self, called: Ref) -> Value:
        if not called.name or self.resolver.tree.locate(called.module) is None:
            return None
        if self.resolver.class_node(called) is not None:
            return Instance(called)
        binding = self.resolver.binding(called)
        if binding is not None and "." not in called.name:
            node = binding.node
        else:  # a method of a class
            owner, _, method = called.name.rpartition(".")
            class_node = self.resolver.class_node(Ref(called.module, owner)) if owner else None
            if class_node is None:
                return None
            node = next((item for item in class_node.body if getattr(item, "name", None) == method), class_node)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return self._annotated(node.returns, called.module)
        return None

    def _annotated(self, node: ast.expr | None, module: str | None = None) -> Value:
        """The class that an annotation names, through quotes, ``X | None`` and ``Optional[X]``."""
        match node:
            case None:
                return None
            case ast.Constant(value=str(text)):
                try:
                    return self._annotated(expression(text), module)
                except SyntaxError:
                    return None
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return self._annotated(left, module) or self._annotated(right, module)
            case ast.Subscript(value=ast.Name(id="Optional") | ast.Attribute(attr="Optional"), slice=inner):
                return self._annotated(inner, module)
            case ast.Name() | ast.Attribute():
                if module is None or module == self.module.name:
                    found = self.evaluate(node)
                else:
                    found = self.resolver.expression(module, node)
                if isinstance(found, Ref) and found.name and self.resolver.class_node(found) is not None:
                    return Instance(found)
        return None


def local_names(body: list[ast.AST], scope: Scope) -> None:
    """Marks the names that a function binds as local and unknown; imports and assignments fill them in order."""
    todo = list(body)
    while todo:
        node = todo.pop()
        match node:
            case ast.Global(names=names):
                scope.globals.update(names)
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                scope.names[name] = None
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                scope.names[name] = None
                continue
            case ast.ClassDef(name=name):
                scope.names[name] = None
                scope.classes.add(name)
                continue
            case ast.Lambda():
                continue
            case ast.ExceptHandler(name=str(name)):
                scope.names[name] = None
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                scope.names[name] = None
        todo.extend(ast.iter_child_nodes(node))
    for name in scope.globals:
        scope.names.pop(name, None)
