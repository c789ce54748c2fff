"""Which names a function binds, and what it binds them to: enough to tell an import from a parameter.

All that a name may be, wherever in the function: ``sharding/_scopes.py`` has what it certainly is where a walk has come to.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from msgspec import Struct, field

from shardwright.sharding._symbols import is_type_checking, target_names

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


class FunctionScope(Struct):
    """The names of one function. ``imports`` are the statements behind names that are imported in it."""

    imports: dict[str, list[ast.Import | ast.ImportFrom]] = field(default_factory=dict)
    assigned: dict[str, list[ast.expr | None]] = field(default_factory=dict)  # None: by whatever else

    def binds(self, name: str) -> bool:
        return name in self.imports or name in self.assigned


def scope_of(function: Function) -> FunctionScope:
    """The scope that a function makes; those inside it have their own."""
    scope = FunctionScope()
    arguments = function.args
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
        if argument is not None:
            scope.assigned.setdefault(argument.arg, []).append(None)
    outer: set[str] = set()
    todo: list[ast.AST] = [function.body] if isinstance(function, ast.Lambda) else list(function.body)
    while todo:
        node = todo.pop()
        match node:
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                outer.update(names)
            case ast.Import() | ast.ImportFrom():
                for name in imported_names(node):
                    scope.imports.setdefault(name, []).append(node)
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    plain = isinstance(target, ast.Name)
                    for name in target_names(target):
                        scope.assigned.setdefault(name, []).append(value if plain else None)
            case ast.AnnAssign(target=ast.Name(id=name), value=value):
                scope.assigned.setdefault(name, []).append(value)
            case ast.withitem(context_expr=value, optional_vars=ast.Name(id=name)):
                scope.assigned.setdefault(name, []).append(value)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                scope.assigned.setdefault(name, []).append(None)
                continue
            case ast.Lambda():
                continue
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                scope.assigned.setdefault(name, []).append(None)
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                scope.assigned.setdefault(name, []).append(None)
        todo.extend(_inside(node))
    for name in outer:
        scope.imports.pop(name, None)
        scope.assigned.pop(name, None)
    return scope


def imported_names(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The names that an import binds; none for a star."""
    if isinstance(node, ast.Import):
        return [alias.asname or alias.name.partition(".")[0] for alias in node.names]
    return [alias.asname or alias.name for alias in node.names if alias.name != "*"]


def imports_outside_functions(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    """In classes too; without those for type checkers alone."""
    todo: list[ast.AST] = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and is_type_checking(node.test):
            todo.extend(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.expr):
            todo.extend(ast.iter_child_nodes(node))


def imports_made_global(tree: ast.Module) -> Iterator[tuple[ast.Import | ast.ImportFrom, set[str]]]:
    """Imports in functions, with the names that the function has declared global."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = list(ast.walk(node))
            names = {name for each in inside if isinstance(each, ast.Global) for name in each.names}
            if names:
                yield from ((each, names) for each in inside if isinstance(each, ast.Import | ast.ImportFrom))


def _inside(node: ast.AST) -> list[ast.AST]:
    """The children, without targets that the statement itself has accounted for."""
    if isinstance(node, ast.Assign):
        kept = [part for target in node.targets for part in ast.walk(target) if not _bound(part)]
        return [node.value, *(part for part in kept if isinstance(part, ast.NamedExpr))]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.value] if node.value is not None else []
    if isinstance(node, ast.withitem) and isinstance(node.optional_vars, ast.Name):
        return [node.context_expr]
    return list(ast.iter_child_nodes(node))


def _bound(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
