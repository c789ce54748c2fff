"""Syntax trees of source text, from any thread.

CPython up to 3.11.7 and 3.12.1 counts the depth of trees that it makes in one place for all threads: while two make some,
either may end in "SystemError: AST constructor recursion depth mismatch" though nothing is wrong (gh-106905). It counts anew
at each attempt, so another one helps. A lock would not: users' threads parse too, and a child of a fork would inherit it.
"""

from __future__ import annotations

import ast
from typing import Any, Literal

__all__ = ["expression", "parsed"]

_ATTEMPTS = 100


def parsed(source: str | bytes | bytearray, filename: str = "<unknown>") -> ast.Module:
    """The tree of a module. Raises SyntaxError, ValueError, RecursionError, MemoryError as ``ast.parse`` does."""
    tree: ast.Module = _tree(source, filename, "exec")
    return tree


def expression(source: str) -> ast.expr:
    """The tree of an expression. Raises as ``parsed`` does."""
    body: ast.expr = _tree(source, "<unknown>", "eval").body
    return body


def _tree(source: str | bytes | bytearray, filename: str, mode: Literal["exec", "eval"]) -> Any:
    for _ in range(_ATTEMPTS - 1):
        try:
            return ast.parse(source, filename, mode)
        except SystemError as error:
            if "recursion depth mismatch" not in str(error):
                raise
    return ast.parse(source, filename, mode)
