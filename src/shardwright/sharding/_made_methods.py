"""Methods of a class body that no ``def`` of their own gives: assigned functions, and those that decorators add."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from shardwright.sharding._functions import FunctionFacts, signature_of
from shardwright.sharding._symbols import Resolver

_ANY = "(self, *args, **kwargs)"
_WRAPPERS = {  # whose result a class calls as it calls its methods
    "functools.partialmethod": "method", "builtins.staticmethod": "static", "builtins.classmethod": "class",
    "builtins.property": "property", "functools.cached_property": "property",
}  # fmt: skip
_ORDERINGS = ("__lt__", "__le__", "__gt__", "__ge__")


def assigned_method(resolver: Resolver, module: str, name: str, value: ast.expr) -> tuple[str, FunctionFacts] | None:
    """The kind and the facts of ``name = value`` in a class body; ``None`` where it is no method for certain."""
    if isinstance(value, ast.Lambda):
        return "method", FunctionFacts(name, value.lineno, signature_of(value.args), ())
    if not isinstance(value, ast.Call):
        return None
    called = resolver.expression(module, value.func)
    kind = _WRAPPERS.get(f"{called.module}.{called.name}") if called is not None else None
    if kind is None:
        return None
    signature = "(*args, **kwargs)" if kind == "static" else _ANY
    return kind, FunctionFacts(name, value.lineno, signature, ())


def added_methods(resolver: Resolver, module: str, node: ast.ClassDef, has: set[str]) -> Iterator[FunctionFacts]:
    """What ``functools.total_ordering`` adds to a class that has the methods ``has``."""
    for decorator in node.decorator_list:
        ref = resolver.expression(module, decorator)
        if ref is not None and f"{ref.module}.{ref.name}" == "functools.total_ordering" and has & set(_ORDERINGS):
            for name in _ORDERINGS:
                if name not in has:
                    yield FunctionFacts(name, node.lineno, "(self, other)", ())
