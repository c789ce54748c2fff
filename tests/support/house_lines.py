"""Code that marks each line it runs, compiled once for all processes of a measured run.

A trace function slows down every line of every module while it is set, ours or not, about twice on CPython up to 3.11;
a mark is one assignment, and only in modules of ours. Coverage still says which lines there are to run, and reports.

Where a line is only noticed on the way past it, it counts when what follows it runs: ``except`` and ``case`` when they match.
"""

from __future__ import annotations

import ast
import marshal
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from types import CodeType

__all__ = ["HITS", "TABLE", "compile_package"]

HITS = "__hits__"  # a bytearray among the builtins: one byte for each line of the package
TABLE = "table"  # beside the code: which bytes are whose


def compile_package(package: Path, folder: Path) -> int:
    """Write the marking code of each module below ``package`` to ``folder``, and a table; returns how many lines there are.

    Code lies in ``NAME.code``, NAME being the path below ``package`` with dots; the table maps files to the byte of their
    first mark and the lines of all. Both are of ``marshal``.
    """
    folder.mkdir(parents=True)
    table: dict[str, tuple[int, list[int]]] = {}
    total = 0
    for path in sorted(package.rglob("*.py")):
        marks = _Marks(total)
        code = marks.compile(path)
        table[str(path)] = (total, marks.lines)
        total += len(marks.lines)
        name = path.relative_to(package).as_posix().replace("/", ".")
        (folder / f"{name}.code").write_bytes(marshal.dumps(code))
    (folder / TABLE).write_bytes(marshal.dumps(table))
    return total


class _Marks:
    def __init__(self, first: int) -> None:
        self.lines: list[int] = []
        self._first = first

    def compile(self, path: Path) -> CodeType:
        tree = ast.parse(path.read_bytes(), str(path))
        self._mark_body(tree, tree.body)
        return compile(tree, str(path), "exec", dont_inherit=True)

    def _mark_body(self, owner: ast.AST, body: list[ast.stmt], *lines: int) -> None:
        """Put a mark before each statement; ``lines`` count with the first."""
        skipped = _header(body) if isinstance(owner, _WITH_DOCSTRINGS) else 0
        marked = body[:skipped]
        marked += [self._mark(first.lineno, first) for first in marked if isinstance(first, ast.ImportFrom)]
        for at, statement in enumerate(body[skipped:]):
            for line in (*(lines if at == 0 else ()), *_lines_of(statement)):
                marked.append(self._mark(line, statement))
            self._mark_inside(statement)
            marked.append(statement)
        body[:] = marked

    def _mark_inside(self, statement: ast.stmt) -> None:
        for block in ("body", "orelse", "finalbody"):
            self._mark_body(statement, getattr(statement, block, []))
        for handler in getattr(statement, "handlers", ()):
            self._mark_body(handler, handler.body, handler.lineno)
        for case in getattr(statement, "cases", ()):
            self._mark_body(case, case.body, case.pattern.lineno)

    def _mark(self, line: int, before: ast.stmt) -> ast.stmt:
        index = self._first + len(self.lines)
        self.lines.append(line)
        target = ast.Subscript(ast.Name(HITS, ast.Load()), ast.Constant(index), ast.Store())
        mark = ast.copy_location(ast.Assign([target], ast.Constant(1)), before)
        return ast.fix_missing_locations(mark)


_WITH_DOCSTRINGS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _header(body: list[ast.stmt]) -> int:
    """How many statements must stay first: the docstring, and imports from the future."""
    docstring = (
        bool(body)
        and isinstance(body[0], ast.Expr)
        and isinstance(body[0].value, ast.Constant)
        and isinstance(body[0].value.value, str)
    )
    rest = body[docstring:]
    return docstring + len(
        [*takewhile(lambda one: isinstance(one, ast.ImportFrom) and one.module == "__future__", rest)]
    )


def _lines_of(statement: ast.stmt) -> Iterator[int]:
    for decorator in getattr(statement, "decorator_list", ()):
        yield decorator.lineno
    yield statement.lineno
