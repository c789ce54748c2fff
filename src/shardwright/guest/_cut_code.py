"""The code of cut functions: stubs of the same signature, put in place, and loops that begin calls before their turn.

A stub replaces the code object of the function itself, so references that were taken early (``from m import f``,
decorators, ``functools.partial``, methods found through subclasses) lead to it as well. Loops are rewritten in the syntax
tree when their module is loaded: ``for x in xs`` becomes ``for x in __shardwright_ahead__(xs, ...)``; what it iterates over,
and in which order, stays as it was.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import CodeType, FunctionType, ModuleType
from typing import Any, Protocol

from shardwright._syntax import expression, parsed
from shardwright.guest._frames import STUB
from shardwright.model.cut import CutFunction, Loop

AHEAD = "__shardwright_ahead__"
_PLACE = "shardwright: what the stub calls"
_HOME = "shardwright: whether calls leave"
_ORIGINAL = "shardwright: the function itself"

Dispatch = Callable[[tuple[Any, ...], dict[str, Any]], Any]


class Home(Protocol):
    """Where a stub looks whether calls leave at all; if not, it calls ``original`` and counts that in ``stayed``."""

    away: bool
    stayed: int
    original: FunctionType


def stub_code(original: CodeType, dispatch: Dispatch, part: str, home: Home | None = None) -> CodeType:
    """Code with the signature, the kind and the free variables of ``original`` that hands all arguments to ``dispatch``.

    The stub of a generator function is one as well (whoever inspects it sees that, and from 3.13 on another kind of code is
    deprecated), so the call is made when the first item is asked for: that is when the body would have begun.
    """
    names = original.co_varnames
    count, only = original.co_argcount, original.co_kwonlyargcount
    plain, keywords = names[:count], names[count : count + only]
    rest = names[count + only] if original.co_flags & inspect.CO_VARARGS else ""
    more = names[count + only + bool(rest)] if original.co_flags & inspect.CO_VARKEYWORDS else ""
    parameters = [*plain[: original.co_posonlyargcount]]
    parameters += ["/"] if original.co_posonlyargcount else []
    parameters += plain[original.co_posonlyargcount :]
    parameters += [f"*{rest}"] if rest else ["*"] if keywords else []
    parameters += keywords
    parameters += [f"**{more}"] if more else []
    given = "".join(f"{name}, " for name in plain) + (f"*{rest}, " if rest else "")
    named = "".join(f"{name!r}: {name}, " for name in keywords) + (f"**{more}, " if more else "")
    free = original.co_freevars
    returns = "return (yield from {})" if original.co_flags & inspect.CO_GENERATOR else "return {}"
    inner = f"def stub({', '.join(parameters)}):\n"
    inner += f"  if 0: {', '.join(free)}\n" if free else ""
    if home is not None:
        straight = given + "".join(f"{name}={name}, " for name in keywords) + (f"**{more}" if more else "")
        stays = returns.format(f"{_ORIGINAL!r}({straight})")
        inner += f"  if not {_HOME!r}.away:\n    {_HOME!r}.stayed += 1\n    {stays}\n"
    inner += f"  {returns.format(f'{_PLACE!r}(({given}), {{{named}}})')}\n"
    source = inner
    if free:
        source = f"def outer({', '.join(free)}):\n" + "".join(f" {line}\n" for line in inner.splitlines())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        code = compile(source, "<stub>", "exec")
    for _ in range(2 if free else 1):
        code = next(item for item in code.co_consts if isinstance(item, CodeType))
    places = {_PLACE: dispatch, _HOME: home, _ORIGINAL: home.original if home is not None else None}
    constants = tuple(places.get(item, item) if isinstance(item, str) else item for item in code.co_consts)
    return code.replace(
        co_consts=constants, co_name=original.co_name, co_qualname=original.co_qualname,
        co_filename=f"{STUB}{part}>", co_firstlineno=original.co_firstlineno,
    )  # fmt: skip


_DEEP = 6  # decorators on top of each other


def function_at(module: ModuleType, qualname: str, line: int = 0) -> FunctionType | None:
    """The function of a module, or of a class in it, below whatever its decorators made of it.

    ``line`` is the first of its code, decorators included; 0 where it is not known. None when it is not found.
    """
    found: Any = module
    for part in qualname.split("."):
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
        if isinstance(found, (staticmethod, classmethod)):
            found = found.__func__
        if found is None:
            return None
    seen: set[int] = set()
    todo = [(found, 0)]
    while todo:
        item, depth = todo.pop(0)
        if id(item) in seen or depth > _DEEP:
            continue
        seen.add(id(item))
        code = getattr(item, "__code__", None)
        own = type(item) is FunctionType and code is not None and item.__module__ == module.__name__
        if own and code is not None and code.co_qualname == qualname and line in (0, code.co_firstlineno):
            made: FunctionType = item
            return made
        inner = [getattr(item, "__wrapped__", None)]
        if type(item) is FunctionType:
            inner += [cell.cell_contents for cell in item.__closure__ or () if _filled(cell)]
        elif not isinstance(item, (type, ModuleType)) and hasattr(item, "__dict__"):
            inner += vars(item).values()
        todo += [(each, depth + 1) for each in inner if callable(each)]
    return None


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


class _AheadCalls(ast.NodeTransformer):
    """Rewrites the loops that the plan names, found by their place."""

    def __init__(self, loops: Mapping[tuple[int, int], tuple[int, Loop]]) -> None:
        self._loops = loops
        self.found: set[int] = set()

    def visit_For(self, node: ast.For) -> ast.AST:
        self.generic_visit(node)
        wanted = self._loops.get((node.lineno, node.col_offset))
        if wanted is not None:
            node.iter = self._ahead(node.iter, node.target, node.body, *wanted)
        return node

    def _comprehension(self, node: Any) -> ast.AST:
        self.generic_visit(node)
        wanted = self._loops.get((node.lineno, node.col_offset))
        if wanted is not None:
            first = node.generators[0]
            parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
            first.iter = self._ahead(first.iter, first.target, parts, *wanted)
        return node  # type: ignore[no-any-return]

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _comprehension

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """``map(f, xs)``."""
        self.generic_visit(node)
        wanted = self._loops.get((node.lineno, node.col_offset))
        if wanted is None or not isinstance(node.func, ast.Name) or node.func.id != "map" or len(node.args) != 2:
            return node
        item = ast.Name("item", ast.Load())
        call = ast.Call(node.args[0], [item], [])
        node.args[1] = self._made(node.args[1], ast.Name("item", ast.Store()), [call], wanted[0])
        return node

    def _ahead(
        self, iterable: ast.expr, target: ast.expr, body: Sequence[ast.AST], number: int, loop: Loop
    ) -> ast.expr:
        places = {(call.line, call.column) for call in loop.calls}
        calls = [
            item
            for part in body
            for item in ast.walk(part)
            if isinstance(item, ast.Call) and (item.lineno, item.col_offset) in places
        ]
        return self._made(iterable, target, calls, number)

    def _made(self, iterable: ast.expr, target: ast.expr, calls: Sequence[ast.Call], number: int) -> ast.expr:
        self.found.add(number)
        asked = [
            f"({ast.unparse(call.func)}, ({''.join(f'{ast.unparse(item)}, ' for item in call.args)}), "
            f"{{{', '.join(f'{item.arg!r}: {ast.unparse(item.value)}' for item in call.keywords)}}})"
            for call in calls
        ]
        listed = f"({', '.join(asked)},)"
        if isinstance(target, ast.Name):
            what = f"lambda {target.id}: {listed}"
        else:
            what = f"lambda __shardwright_item__: [{listed} for {ast.unparse(target)} in (__shardwright_item__,)][0]"
        made = expression(f"{AHEAD}(0, {number}, {what})")
        assert isinstance(made, ast.Call)
        for item in ast.walk(made):
            ast.copy_location(item, iterable)
        made.args[0] = iterable
        return made


class CutLoader(importlib.machinery.SourceFileLoader):
    """Loads a module of cut code: its loops rewritten, its cut functions replaced when it is there."""

    def __init__(self, name: str, path: str, cutting: Cutting) -> None:
        super().__init__(name, path)
        self._cutting = cutting

    def get_code(self, fullname: str) -> CodeType | None:
        if not self._cutting.loops_of(fullname):
            return super().get_code(fullname)
        path = self.get_filename(fullname)  # never from the cache, and never into it: others load the module as it is
        return self.source_to_code(self.get_data(path), path)

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> CodeType:  # type: ignore[override]
        loops = self._cutting.loops_of(self.name)
        if not loops:
            return super().source_to_code(data, path, _optimize=_optimize)
        tree = parsed(data, path)
        rewritten = _AheadCalls(loops).visit(tree)
        made: CodeType = compile(rewritten, path, "exec", dont_inherit=True, optimize=_optimize)
        return made

    def exec_module(self, module: ModuleType) -> None:
        if self._cutting.loops_of(self.name):
            module.__dict__[AHEAD] = self._cutting.ahead
        super().exec_module(module)
        self._cutting.loaded(module)


class Cutting:
    """Which modules have cut functions or loops, and what becomes of those. First on ``sys.meta_path``.

    ``replace`` gets each cut function when its module is there; ``ahead`` is what loops call. ``executed`` hears of each
    of the modules ``watched`` when it is there, ``before`` of those that were there before.
    """

    def __init__(
        self,
        functions: Sequence[CutFunction],
        loops: Sequence[Loop],
        replace: Callable[[CutFunction, FunctionType], None],
        ahead: Callable[[Any, int, Callable[[Any], Any]], Any],
        watched: Iterable[str] = (),
        executed: Callable[[ModuleType], None] = lambda module: None,
        before: Callable[[ModuleType], None] = lambda module: None,
    ) -> None:
        self._before = before
        self._watched = frozenset(watched)
        self._executed = executed
        self._functions: dict[str, list[CutFunction]] = {}
        for function in functions:
            self._functions.setdefault(function.module, []).append(function)
        self._loops: dict[str, dict[tuple[int, int], tuple[int, Loop]]] = {}
        for number, loop in enumerate(loops):
            self._loops.setdefault(loop.module, {})[loop.line, loop.column] = (number, loop)
        self._replace = replace
        self.ahead = ahead
        self._finding = False

    def loops_of(self, module: str) -> Mapping[tuple[int, int], tuple[int, Loop]]:
        return self._loops.get(module, {})

    def loaded(self, module: ModuleType) -> None:
        """The module has been executed."""
        self._executed(module)
        self._there(module)

    def _there(self, module: ModuleType) -> None:
        for wanted in self._functions.get(module.__name__, ()):
            found = function_at(module, wanted.qualname, wanted.line)
            if found is not None:
                self._replace(wanted, found)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        spec: Any = None
        wanted = fullname in self._functions or fullname in self._loops or fullname in self._watched
        if self._finding or not wanted:
            return None
        self._finding = True
        try:
            for finder in sys.meta_path:
                find = getattr(finder, "find_spec", None)
                spec = find(fullname, path, target) if find is not None and finder is not self else None
                if spec is not None:
                    break
            else:
                return None
        finally:
            self._finding = False
        if type(spec.loader) is importlib.machinery.SourceFileLoader and spec.origin is not None:
            loader = CutLoader(fullname, spec.origin, self)
            made = importlib.util.spec_from_file_location(
                fullname, spec.origin, loader=loader, submodule_search_locations=spec.submodule_search_locations
            )
            return made
        found: importlib.machinery.ModuleSpec = spec
        return found

    def install(self) -> None:
        for name in self._watched | self._functions.keys() | self._loops.keys():
            if name in sys.modules:
                self._before(sys.modules[name])
                self._there(sys.modules[name])
        sys.meta_path.insert(0, self)
