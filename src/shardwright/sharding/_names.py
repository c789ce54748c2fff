"""Which module-level names a statement needs, and when: at once, when a function in it runs, or for its annotations."""

from __future__ import annotations

import ast

from msgspec import Struct, field

from shardwright._syntax import expression


class Needs(Struct):
    """Names by the moment they are needed. ``nodes`` are the loads inside functions, for rewriting."""

    now: set[str] = field(default_factory=set)
    later: set[str] = field(default_factory=set)
    annotations: set[str] = field(default_factory=set)
    nodes: dict[str, list[ast.Name]] = field(default_factory=dict)

    @property
    def all(self) -> set[str]:
        return self.now | self.later


def needs_of(node: ast.AST) -> Needs:
    """The needs of one top-level statement or expression."""
    needs = Needs()
    _visit(node, needs, (), False, frozenset())
    return needs


def _visit(
    node: ast.AST, needs: Needs, scopes: tuple[frozenset[str], ...], later: bool, class_names: frozenset[str]
) -> None:
    match node:
        case ast.Name(id=name):
            if not isinstance(node.ctx, ast.Load) or name in class_names or any(name in scope for scope in scopes):
                return
            (needs.later if later else needs.now).add(name)
            if later:
                needs.nodes.setdefault(name, []).append(node)
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
            for decorator in getattr(node, "decorator_list", []):
                _visit(decorator, needs, scopes, later, class_names)
            for default in (*node.args.defaults, *node.args.kw_defaults):
                if default is not None:
                    _visit(default, needs, scopes, later, class_names)
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            arguments += [arg for arg in (node.args.vararg, node.args.kwarg) if arg is not None]
            for arg in arguments:
                _annotation(arg.annotation, needs)
            _annotation(getattr(node, "returns", None), needs)
            body: list[ast.AST] = [node.body] if isinstance(node, ast.Lambda) else list(node.body)
            bound, free = _bound(body)
            inner = (frozenset({arg.arg for arg in arguments} | bound | _type_parameters(node)) - free, *scopes)
            for item in body:
                _visit(item, needs, inner, True, frozenset())
        case ast.ClassDef():
            for decorator in node.decorator_list:
                _visit(decorator, needs, scopes, later, class_names)
            extra = (_type_parameters(node), *scopes)
            for base in (*node.bases, *(keyword.value for keyword in node.keywords)):
                _visit(base, needs, extra, later, class_names)
            names: frozenset[str] = frozenset()
            for item in node.body:  # a name is the class's own from the statement that binds it on
                _visit(item, needs, extra, later, names)
                names |= _bound([item])[0]
        case ast.AnnAssign():
            _annotation(node.annotation, needs)
            if node.value is not None:
                _visit(node.value, needs, scopes, later, class_names)
        case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
            bound = frozenset(
                item.id
                for generator in node.generators
                for item in ast.walk(generator.target)
                if isinstance(item, ast.Name)
            )
            for child in ast.iter_child_nodes(node):
                _visit(child, needs, (bound, *scopes), later, class_names)
        case _:
            for child in ast.iter_child_nodes(node):
                _visit(child, needs, scopes, later, class_names)


def _type_parameters(node: ast.AST) -> frozenset[str]:
    return frozenset(parameter.name for parameter in getattr(node, "type_params", []))


def _annotation(node: ast.expr | None, needs: Needs) -> None:
    if node is None:
        return
    for item in ast.walk(node):
        if isinstance(item, ast.Name):
            needs.annotations.add(item.id)
        elif isinstance(item, ast.Constant) and isinstance(item.value, str):
            try:
                _annotation(expression(item.value), needs)
            except (SyntaxError, ValueError):
                continue


def _bound(body: list[ast.AST] | list[ast.stmt]) -> tuple[frozenset[str], frozenset[str]]:
    """Names bound in a block, without nested functions and classes; and those declared global."""
    bound: set[str] = set()
    free: set[str] = set()
    todo: list[ast.AST] = list(body)
    while todo:
        node = todo.pop()
        match node:
            case ast.Global(names=names):
                free.update(names)
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                bound.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                bound.add(name)
                continue
            case ast.Lambda():
                continue
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                bound.update(
                    item.target.id
                    for item in ast.walk(node)
                    if isinstance(item, ast.NamedExpr) and isinstance(item.target, ast.Name)
                )
                continue
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                bound.update((alias.asname or alias.name).partition(".")[0] for alias in aliases)
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                bound.add(name)
        todo.extend(ast.iter_child_nodes(node))
    return frozenset(bound), frozenset(free)
