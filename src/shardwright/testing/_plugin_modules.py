"""The application's modules in the test process: generated where a component owns them, and open to patching.

A test that sets an attribute of such a module (``monkeypatch``, ``mock.patch``, plain assignment) sets it where the code
runs that reads it: in the owner's shards, and for constants and common modules wherever there is a copy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

from shardwright.errors import CannotCross, NodeError
from shardwright.guest import GeneratedFinder, HandleType, Proxies
from shardwright.model.shard import ShardPlan
from shardwright.node import Bench
from shardwright.testing._plugin_mirrors import Mirrors

_PATCHING = "__shardwright_patching__"
_MISSING: Any = object()
_ASKED_BY_TOOLS = frozenset({"_mock_name", "_pytestfixturefunction", "pytestmark"})  # of everything that they find


class TestFinder(GeneratedFinder):
    """Finds generated modules for a process that owns no component. Test modules are left to pytest."""

    __test__ = False

    def __init__(
        self, plan: ShardPlan, proxies: Callable[[], Proxies], bench: Callable[[], Bench | None], mirrors: Mirrors
    ) -> None:
        # proxies come with the node, which starts when the first such module is imported
        super().__init__(plan, None, None)  # type: ignore[arg-type]
        self._start = proxies
        self._bench = bench
        self._mirrors = mirrors
        for module in [name for name, surface in self._surfaces.items() if is_test(Path(surface.path))]:
            del self._surfaces[module]

    @property
    def modules(self) -> frozenset[str]:
        """The modules that it answers for."""
        return frozenset(self._surfaces)

    def exec_module(self, module: ModuleType) -> None:
        self._proxies = self._start()
        super().exec_module(module)
        _generated(module, self._bench, self._mirrors)


def is_test(path: Path) -> bool:
    """Whether a file of the application's tree belongs to its tests: those run here, not in a shard."""
    name = path.name
    return (
        name == "conftest.py"
        or (name.startswith("test_") and name.endswith(".py"))
        or name.endswith("_test.py")
        or not {"tests", "test"}.isdisjoint(path.parts[:-1])
    )


class Unseen:
    """A value that stays in its shard (a lock, a connection, a module): a test may replace it, or patch what it has.

    ``mock.patch("shop.store.time.sleep")`` patches the module ``time`` of the shards that ``shop.store`` lives in.
    """

    __slots__ = ("_children", "_error", "_name", "_patching")

    def __init__(self, module: str, name: str, error: CannotCross, bench: Callable[[], Bench | None]) -> None:
        put = object.__setattr__
        put(self, "_name", (module, name))
        put(self, "_error", error)
        put(self, "_children", {})
        put(self, "_patching", _Patching(SimpleNamespace(), module, f"{name}.", bench, owned=True))

    def __repr__(self) -> str:
        return f"<{'.'.join(self._name)}, which stays in its shard>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in _ASKED_BY_TOOLS:
            raise AttributeError(name)
        if name not in self._children:
            module, own = self._name
            child = Unseen(module, f"{own}.{name}", self._error, self._patching.bench)
            self._children[name] = self._patching.reads[name] = child
        return self._children[name]

    def __setattr__(self, name: str, value: object) -> None:
        self._patching.set(name, value, _nothing, _nothing)

    def __delattr__(self, name: str) -> None:
        self._patching.delete(name, _nothing, _nothing)

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise CannotCross(
            f"{'.'.join(self._name)} can be patched by a test, not used: {self._error.message}",
            outcome="not started",
            remedy="test it through a function of its module",
        )

    __call__ = __bool__ = __iter__ = __len__ = __enter__ = __getitem__ = _refuse


def _nothing(*_: object) -> None:
    pass


class _Patching:
    """What a test has patched in one place (a module, or a class of it), and how to undo it."""

    def __init__(
        self,
        place: Any,
        module: str,
        prefix: str,
        bench: Callable[[], Bench | None],
        owned: bool,
        mirrors: Mirrors | None = None,
        ask: Callable[[str], Any] | None = None,
    ) -> None:
        self._mirrors = mirrors
        self._ask = ask
        self._place = place
        self._module = module
        self._prefix = prefix
        self.bench = bench
        self._owned = owned
        self._originals: dict[str, tuple[bool, Any]] = {}  # whether it was there, and what it was
        self.reads: dict[str, Any] = {}  # what the owner last answered: whoever restores it undoes

    def set(self, name: str, value: object, assign: Callable[[str, Any], None], remove: Callable[[str], None]) -> None:
        bench = self.bench()
        if bench is None:
            assign(name, value)
            return
        if name in self._originals and value is self._originals[name][1]:
            self._undo(bench, name, assign, remove)
            return
        present, now = self._now(name)
        constant = present and not callable(now)
        try:
            bench.patch(self._module, self._prefix + name, value, everywhere=constant)
        except NodeError as error:
            if "AttributeError(" not in error.message:
                raise
            raise AttributeError(error.message) from None
        self._originals.setdefault(name, (present, now))
        if present or not self._owned:  # what only the owner knows, it is asked for
            assign(name, value)
        else:
            self._stands(name, value)

    def delete(self, name: str, assign: Callable[[str, Any], None], remove: Callable[[str], None]) -> None:
        bench = self.bench()
        if bench is None:
            remove(name)
        elif name in self._originals:
            self._undo(bench, name, assign, remove)
        else:
            present, now = self._now(name)
            bench.delete(self._module, self._prefix + name)
            self._originals[name] = (present, now)
            if present:
                remove(name)

    def _now(self, name: str) -> tuple[bool, Any]:
        found = vars(self._place).get(name, _MISSING)
        return (True, found) if found is not _MISSING else (False, self.reads.get(name, _MISSING))

    def _undo(self, bench: Bench, name: str, assign: Callable[[str, Any], None], remove: Callable[[str], None]) -> None:
        present, original = self._originals.pop(name)
        bench.undo(self._module, self._prefix + name)
        if present:
            assign(name, original)
            return
        if name in vars(self._place):
            remove(name)
        if original is not _MISSING:
            self._stands(name, original)
            if self._mirrors is not None:
                self._mirrors.pull()

    def _stands(self, name: str, value: object) -> None:
        """A test that goes on to use the object itself is to see in it what the shard does to its own."""
        if self._mirrors is not None and self._ask is not None:
            self._mirrors.hold(self._module, name, value, self._ask)


class PatchableModule(ModuleType):
    """A module of the application, as tests see it."""

    def __setattr__(self, name: str, value: object) -> None:
        patching: _Patching | None = vars(self).get(_PATCHING)
        if patching is None or _is_pythons(name, value):
            super().__setattr__(name, value)
        else:
            patching.set(name, value, super().__setattr__, super().__delattr__)

    def __delattr__(self, name: str) -> None:
        patching: _Patching | None = vars(self).get(_PATCHING)
        if patching is None or _is_pythons(name, None):
            super().__delattr__(name)
        else:
            patching.delete(name, super().__setattr__, super().__delattr__)


class PatchableHandleType(HandleType):
    """A stateful class of the application, as tests see it."""

    def __setattr__(cls, name: str, value: Any) -> None:
        if _is_pythons(name, value):
            type.__setattr__(cls, name, value)
        else:
            vars(cls)[_PATCHING].set(name, value, partial(type.__setattr__, cls), partial(type.__delattr__, cls))

    def __delattr__(cls, name: str) -> None:
        if _is_pythons(name, None):
            type.__delattr__(cls, name)
        else:
            vars(cls)[_PATCHING].delete(name, partial(type.__setattr__, cls), partial(type.__delattr__, cls))


def _is_pythons(name: str, value: object) -> bool:
    """What the import system sets."""
    return (name.startswith("__") and name.endswith("__")) or isinstance(value, ModuleType)


def _generated(module: ModuleType, bench: Callable[[], Bench | None], mirrors: Mirrors) -> None:
    ask = module.__dict__["__getattr__"]
    patching = _Patching(module, module.__name__, "", bench, True, mirrors, ask)
    for cls in [value for value in vars(module).values() if isinstance(value, HandleType)]:
        if cls.__module__ == module.__name__ and type(cls) is HandleType:
            type.__setattr__(cls, _PATCHING, _Patching(cls, cls.__module__, f"{cls._qualname}.", bench, owned=True))
            cls.__class__ = PatchableHandleType

    def __getattr__(name: str) -> Any:
        if name in _ASKED_BY_TOOLS:
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
        try:
            found = mirrors.read(module.__name__, name, ask)
        except CannotCross as error:
            found = Unseen(module.__name__, name, error, bench)
        patching.reads[name] = found
        return found

    module.__dict__["__getattr__"] = __getattr__
    module.__dict__[_PATCHING] = patching
    module.__class__ = PatchableModule


class CommonModules:
    """Modules below the import root that no component owns: every shard has a copy, and so has the test process."""

    def __init__(self, plan: ShardPlan, bench: Callable[[], Bench | None]) -> None:
        self._root = Path(plan.root).resolve()
        self._owned = {surface.module for surface in plan.modules}
        self._bench = bench
        self._seen: set[str] = set()

    def open(self) -> None:
        """Open those to patching that were imported since the last time."""
        for name in sys.modules.keys() - self._seen:
            self._seen.add(name)
            module = sys.modules.get(name)
            path = getattr(module, "__file__", None)
            if name in self._owned or type(module) is not ModuleType or not isinstance(path, str):
                continue
            try:
                relative = Path(path).resolve().relative_to(self._root)
            except (ValueError, OSError):
                continue
            if not is_test(relative) and "site-packages" not in relative.parts:
                module.__dict__[_PATCHING] = _Patching(module, name, "", self._bench, owned=False)
                module.__class__ = PatchableModule
