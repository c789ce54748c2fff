"""Which globals and class attributes of an application change after its modules were imported.

What modules hold is written down a few times while a program runs, and compared. A shard that imports the same modules
has what importing made of them; a function that reads what changed later cannot run there.
"""

from __future__ import annotations

import io
import re
import sys
import time
import types
from collections.abc import Iterable
from types import CodeType, FunctionType, ModuleType
from typing import Any

from shardwright.model.profile import of_tests
from shardwright.transport.kin import KinPickler, is_single

_ATOMS = frozenset({str, bytes, int, float, bool, complex, type(None), re.Pattern, types.BuiltinFunctionType, range})
_SHARE = 0.04  # of a run may go into writing down what modules hold
_DEAR_S = 0.05  # what takes longer to write down is looked at rarely
_PRIVATE = re.compile(r"_[A-Za-z]\w*?__\w*[A-Za-z0-9]$")
_Key = tuple[str, str]
_ABSENT = object()


class Changes:
    """Of ``modules``. ``globals`` and ``attributes`` (of classes, by name) are those that changed, each with an example."""

    def __init__(self, modules: Iterable[str]) -> None:
        self._modules = tuple(module for module in modules if not of_tests(module))
        self._homes = frozenset({"builtins", "collections", "array", *self._modules})
        self._held: dict[_Key, Any] = {}
        self._cost_s: dict[_Key, float] = {}
        self._begun = False
        self._last_s = self._took_s = 0.0
        self.spent_s = 0.0
        self.globals: dict[str, set[str]] = {}
        self.attributes: dict[str, str] = {}
        self._names: dict[CodeType, frozenset[str]] = {}

    def begin(self) -> None:
        """What is there now is what importing made."""
        if not self._begun:
            self._begun = True
            self._look(self._modules, dear=True, compare=False)

    def loaded(self, module: ModuleType) -> None:
        """A module was imported after others ran."""
        if self._begun:
            self._look((module.__name__,), dear=True, compare=False)

    def look(self) -> None:
        """Compare, if that has not been done for long."""
        now_s = time.perf_counter()
        if self._begun and (now_s - self._last_s) * _SHARE > self._took_s:
            self._look(self._modules, dear=False, compare=True)

    def end(self) -> None:
        """Compare everything for the last time."""
        if self._begun:
            self._look(self._modules, dear=True, compare=True)

    def read_by(self, codes: Iterable[CodeType], modules: dict[str, str], *, private: bool = True) -> str:
        """What of it these codes name, in words; empty when nothing. ``modules`` are names of modules by file.

        Without ``private``: but for what a class keeps to itself (``__name``, as counters of what it made are).
        """
        for code in codes:
            module = modules.get(code.co_filename, "")
            if not module:
                continue
            names = code.co_names
            changed = self.globals.get(module, ())
            held = vars(sys.modules[module]) if module in sys.modules else {}
            for name in names:
                if name in changed:
                    return f"it runs {code.co_qualname}, which uses {module}.{name}, and that changes while the program runs"
                if name in self.attributes and (private or not _PRIVATE.match(name)):
                    return f"it runs {code.co_qualname}, which uses {name}: {self.attributes[name]} changes"
                other = held.get(name)
                if type(other) is ModuleType and other.__name__ in self.globals:
                    for used in self.globals[other.__name__].intersection(names):
                        return f"it runs {code.co_qualname}, which uses {other.__name__}.{used}, and that changes"
        return ""

    # -- what is held ----------------------------------------------------------------------------------------------

    def _look(self, modules: Iterable[str], *, dear: bool, compare: bool) -> None:
        begun_s = time.perf_counter()
        for module in modules:
            found = sys.modules.get(module)
            if not isinstance(found, ModuleType):
                continue
            for name, value in list(vars(found).items()):
                if not name.startswith("__"):
                    self._note(module, name, value, dear=dear, compare=compare)
        self._last_s = time.perf_counter()
        self._took_s = self._last_s - begun_s
        self.spent_s += self._took_s

    def _note(self, module: str, name: str, value: Any, *, dear: bool, compare: bool) -> None:
        if isinstance(value, type):
            self._enter((module, name), ("is", id(value)), compare=compare)
            if value.__module__ == module and value.__qualname__ == name:
                for key, item in list(vars(value).items()):
                    if not key.startswith("__"):
                        self._written((module, f"{name}.{key}"), item, dear=dear, compare=compare)
            return
        self._written((module, name), value, dear=dear, compare=compare)

    def _written(self, key: _Key, value: Any, *, dear: bool, compare: bool) -> None:
        if not dear and self._cost_s.get(key, 0.0) > _DEAR_S:
            return
        begun_s = time.perf_counter()
        self._enter(key, self._content(value), compare=compare)
        self._cost_s[key] = time.perf_counter() - begun_s

    def _enter(self, key: _Key, content: Any, *, compare: bool) -> None:
        before = self._held.get(key, _ABSENT)
        if before is _ABSENT or before != content:
            self._held[key] = content
            if compare:
                module, name = key
                if before is _ABSENT and "." in name:
                    return  # what a class was given once travels to the other side
                owner, _, attribute = name.partition(".")
                if attribute:
                    self.attributes.setdefault(attribute, f"{module}.{name}")
                else:
                    self.globals.setdefault(module, set()).add(owner)

    def _content(self, value: Any) -> Any:
        cls = type(value)
        if cls in _ATOMS:
            return value
        if cls in (staticmethod, classmethod):
            value = value.__func__
            cls = type(value)
        if cls is FunctionType:
            return self._function(value)
        if cls is property or cls is ModuleType or isinstance(value, type) or is_single(value):
            return ("is", id(value))
        if cls.__module__ not in self._homes and not isinstance(value, (list, dict, set, tuple, frozenset)):
            return (
                "is",
                id(value),
            )  # what a library's object keeps for itself, as caches do, shows in results run twice
        return _pickled(value)

    def _function(self, value: FunctionType) -> Any:
        """Which function it is, and what it keeps: variables around it, defaults, attributes."""
        kept: list[Any] = [id(value)]
        for cell in value.__closure__ or ():
            try:
                item = cell.cell_contents
            except ValueError:
                item = None
            if type(item) is not FunctionType and not isinstance(item, type):
                kept.append(item if type(item) in _ATOMS else _pickled(item))
        for item in (value.__defaults__ or ()) + tuple((value.__kwdefaults__ or {}).values()):
            if isinstance(item, (list, dict, set)):
                kept.append(_pickled(item))
        return tuple(kept)


def _pickled(value: Any) -> Any:
    out = io.BytesIO()
    try:
        KinPickler(out, 5).dump(value)
    except Exception:
        return ("is", id(value), len(value) if hasattr(type(value), "__len__") else 0)
    written = out.getvalue()
    return written if len(written) < 200 else hash(written)
