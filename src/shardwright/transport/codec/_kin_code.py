"""Functions that have no name of their own, sent by the place of their code and by what they hold.

A lambda, or a function inside another, is on the other side made of the code at the same place of the same module. What it
takes from around it travels as values, so one that writes there (``nonlocal``) does not cross.
"""

from __future__ import annotations

import dis
import functools
import importlib
import importlib.util
import pickle
import sys
from pathlib import Path
from types import CellType, CodeType, FunctionType
from typing import Any

__all__ = ["codes_of", "reduced"]

_MISSING = "shardwright: an empty cell"


def reduced(function: FunctionType) -> Any:
    """What pickle's ``reducer_override`` returns for such a function. Raises PicklingError when it does not cross."""
    code = function.__code__
    module = function.__module__
    if module == "__main__" or module not in sys.modules:
        raise pickle.PicklingError(f"{function.__qualname__} is of {module}, which is there alone")
    if code.co_freevars and _writes(code):
        raise pickle.PicklingError(f"{function.__qualname__} writes variables around it")
    places = _codes(module).get((code.co_qualname, code.co_firstlineno), [])
    fitting = [
        number
        for number, item in enumerate(places)
        if item.co_code == code.co_code and item.co_consts == code.co_consts
    ]
    if len(fitting) != 1:
        raise pickle.PicklingError(f"the code of {function.__qualname__} has no place of its own in {module}")
    cells = tuple([_content(cell) for cell in function.__closure__ or ()])
    state = (cells, function.__defaults__, function.__kwdefaults__, dict(function.__dict__), function.__doc__)
    place = (module, code.co_qualname, code.co_firstlineno, fitting[0], function.__name__, function.__qualname__)
    return _made, place, state, None, None, _filled


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING


@functools.lru_cache(maxsize=4096)
def _writes(code: CodeType) -> bool:
    """Whether it, or a function in it, binds a variable of a function around it."""
    free = frozenset(code.co_freevars)
    if any(
        item.opname in ("STORE_DEREF", "DELETE_DEREF") and item.argval in free for item in dis.get_instructions(code)
    ):
        return True
    return any(
        bool(free.intersection(inner.co_freevars)) and _writes(inner)
        for inner in code.co_consts
        if isinstance(inner, CodeType)
    )


@functools.lru_cache(maxsize=256)
def _codes(module: str) -> dict[tuple[str, int], list[CodeType]]:
    """All code of a module by name and line."""
    loader = getattr(sys.modules[module], "__loader__", None)
    get = getattr(loader, "get_code", None)
    top = get(module) if get is not None else None
    found: dict[tuple[str, int], list[CodeType]] = {}
    todo = [top] if top is not None else []
    while todo:
        code = todo.pop()
        for item in code.co_consts:
            if isinstance(item, CodeType):
                found.setdefault((item.co_qualname, item.co_firstlineno), []).append(item)
                todo.append(item)
    return found


def codes_of(module: str) -> list[CodeType]:
    """All code of a module; where its loader has none to give, as pytest's has not, that of its source. None without source."""
    return [code for codes in _codes(module).values() for code in codes] or _from_source(module)


@functools.lru_cache(maxsize=256)
def _from_source(module: str) -> list[CodeType]:
    path = getattr(sys.modules.get(module), "__file__", None) or ""
    try:
        todo = [compile(Path(path).read_bytes(), path, "exec", dont_inherit=True)] if path.endswith(".py") else []
    except (OSError, SyntaxError, ValueError):
        return []
    found: list[CodeType] = []
    while todo:
        inner = [item for item in todo.pop().co_consts if isinstance(item, CodeType)]
        found += inner
        todo += inner
    return found


def _made(module: str, code_name: str, line: int, number: int, name: str, qualname: str) -> FunctionType:
    home = importlib.import_module(module)
    code = _codes(module)[code_name, line][number]
    made = FunctionType(code, vars(home), name, None, tuple(CellType() for _ in code.co_freevars))
    made.__qualname__ = qualname
    return made


def _filled(made: FunctionType, state: Any) -> None:
    cells, defaults, keywords, attributes, doc = state
    for cell, content in zip(made.__closure__ or (), cells, strict=True):
        if type(content) is not str or content != _MISSING:
            cell.cell_contents = content
    made.__defaults__, made.__kwdefaults__, made.__doc__ = defaults, keywords, doc
    made.__dict__.update(attributes)
