"""Loops whose calls of cut functions may begin before their turn.

A call may when each round makes it for certain, with arguments that are known when the round begins: names of the loop
itself, names that the loop does not bind, and constants. Loops that may end early, by ``break`` or ``return``, are left as
they are: what they would not have asked for is not asked for.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from shardwright.model.cut import Loop, LoopCall
from shardwright.sharding.callgraph import Scanned
from shardwright.sharding.callgraph._code import Function
from shardwright.sharding.hazards._facts import _own

_Comprehension = ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp


def loops_of(scanned: Scanned, callees: Collection[str]) -> dict[str, list[tuple[str, Loop]]]:
    """For each function of ``callees``: the loops that may call it ahead, with the function that holds each."""
    sites: dict[Function, dict[tuple[int, int], set[str]]] = {}
    for site in scanned.analysis.sites:
        if site.kind == "call" or site.candidates:
            names = {scanned.ids[function] for function in site.candidates if scanned.ids.get(function) in callees}
            if names:
                sites.setdefault(site.caller, {}).setdefault((site.line, site.column), set()).update(names)
    found: dict[str, list[tuple[str, Loop]]] = {}
    for function, places in sites.items():
        for loop in _in(function, places):
            for name in sorted({call.function for call in loop.calls}):
                found.setdefault(name, []).append((scanned.ids[function], loop))
    return found


def _in(function: Function, places: dict[tuple[int, int], set[str]]) -> Iterator[Loop]:
    module = function.module.source.name
    placed: list[Any] = [item for item in _own(function) if hasattr(item, "lineno")]
    for node in sorted(placed, key=lambda item: (item.lineno, item.col_offset)):
        calls: list[ast.Call] = []
        names: set[str] = set()
        if isinstance(node, ast.For) and not _may_end(node.body):
            names, calls = _names(node.target), list(_certain(node.body))
            names -= _bound(node.body)
            stored = _bound(node.body)
        elif isinstance(node, _Comprehension) and len(node.generators) == 1 and not node.generators[0].ifs:
            if node.generators[0].is_async:
                continue
            names, stored = _names(node.generators[0].target), set()
            parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
            calls = [call for part in parts for call in _certain_of(part)]
        elif _is_map(node):
            assert isinstance(node, ast.Call)
            called = places.get((node.args[0].lineno, node.args[0].col_offset)) or places.get(
                (node.lineno, node.col_offset)
            )
            if called:
                yield Loop(
                    module, node.lineno, node.col_offset,
                    tuple(LoopCall(name, node.lineno, node.col_offset) for name in sorted(called)),
                )  # fmt: skip
            continue
        else:
            continue
        asked = []
        for call in calls:
            wanted = places.get((call.lineno, call.col_offset))
            if wanted and _known(call, stored - names):
                asked += [LoopCall(name, call.lineno, call.col_offset) for name in sorted(wanted)]
        if asked:
            yield Loop(module, node.lineno, node.col_offset, tuple(asked))


def _is_map(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "map"
        and len(node.args) == 2
        and not node.keywords
        and isinstance(node.args[0], ast.Name | ast.Attribute)
    )


def _names(target: ast.expr) -> set[str]:
    return {item.id for item in ast.walk(target) if isinstance(item, ast.Name)}


def _bound(body: Sequence[ast.stmt]) -> set[str]:
    """Names that statements bind."""
    found = set()
    for statement in body:
        for item in ast.walk(statement):
            if isinstance(item, ast.Name) and not isinstance(item.ctx, ast.Load):
                found.add(item.id)
            elif isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(item.name)
            elif isinstance(item, ast.alias):
                found.add((item.asname or item.name).partition(".")[0])
            elif isinstance(item, ast.ExceptHandler) and item.name:
                found.add(item.name)
    return found


def _may_end(body: Sequence[ast.stmt]) -> bool:
    todo: list[tuple[ast.AST, bool]] = [(item, False) for item in body]
    while todo:
        node, nested = todo.pop()
        if isinstance(node, ast.Return) or (isinstance(node, ast.Break | ast.Continue) and not nested):
            return True
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            continue
        inner = nested or isinstance(node, ast.For | ast.While | ast.AsyncFor)
        todo += [(item, inner) for item in ast.iter_child_nodes(node)]
    return False


def _certain(body: Sequence[ast.stmt]) -> Iterator[ast.Call]:
    """Calls that each round makes unless it fails before."""
    for statement in body:
        match statement:
            case ast.Expr(value=value) | ast.Assign(value=value) | ast.AugAssign(value=value):
                yield from _certain_of(value)
            case ast.AnnAssign(value=value) if value is not None:
                yield from _certain_of(value)
            case ast.If(test=test):
                yield from _certain_of(test)
            case ast.For(iter=iterated):
                yield from _certain_of(iterated)
            case ast.With(items=items, body=inner):
                for item in items:
                    yield from _certain_of(item.context_expr)
                yield from _certain(inner)
            case _:
                continue


def _certain_of(node: ast.expr) -> Iterator[ast.Call]:
    match node:
        case ast.Lambda() | ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
            return
        case ast.IfExp(test=test):
            yield from _certain_of(test)
            return
        case ast.BoolOp(values=values):
            yield from _certain_of(values[0])
            return
        case ast.Call():
            yield node
    for item in ast.iter_child_nodes(node):
        if isinstance(item, ast.expr):
            yield from _certain_of(item)
        elif isinstance(item, ast.keyword):
            yield from _certain_of(item.value)


def _known(call: ast.Call, stored: set[str]) -> bool:
    """Whether function and arguments are plain names and constants that hold when the round begins."""
    function = call.func
    if isinstance(function, ast.Attribute):
        function = function.value
    parts: list[ast.expr] = [function, *call.args, *(item.value for item in call.keywords)]
    if any(item.arg is None for item in call.keywords):
        return False
    return all(
        isinstance(item, ast.Constant) or (isinstance(item, ast.Name) and item.id not in stored) for item in parts
    )
