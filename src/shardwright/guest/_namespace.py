"""Private modules: an application's code once per shard inside one process.

``--inproc`` runs every shard in one interpreter, and the node's own client needs the application's data classes without
importing the application. Both get a namespace: modules below the import root are loaded into it, privately, real or
generated, while everything else comes from ``sys.modules`` as usual. It works by the ``__import__`` that the builtins of
the private modules hold, and by an ``importlib`` of their own; code that looks into ``sys.modules`` at run time escapes it.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import pkgutil
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from shardwright.guest._mailbox import Mailbox
from shardwright.guest._modules import fill
from shardwright.guest._stubs import Proxies
from shardwright.model.ids import ComponentName
from shardwright.model.shard import ModuleSurface, ShardPlan


class _Turn:
    """Whose modules are visible in ``sys.modules``: those of one thread, which executes them, at a time.

    A thread that calls another shard while it imports puts its turn down with the baton (see ``ImportingMailbox``): the
    callee may have to import something as well.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._owner: int | None = None
        self._depth = 0
        self._shown: list[tuple[str, ModuleType, ModuleType | None]] = []

    def held(self) -> bool:
        return self._owner == threading.get_ident()

    def __enter__(self) -> None:
        self._lock.acquire()
        self._owner = threading.get_ident()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None
        self._lock.release()

    @contextlib.contextmanager
    def visible(self, name: str, module: ModuleType) -> Iterator[None]:
        """Decorators such as ``dataclass`` look their module up in ``sys.modules``."""
        self._shown.append((name, module, sys.modules.get(name)))
        sys.modules[name] = module
        try:
            yield
        finally:
            self._hide()

    def put_down(self) -> tuple[int, list[tuple[str, ModuleType]]]:
        """Let other threads import; returns what ``take_up`` needs to go on."""
        shown = [(name, module) for name, module, _ in self._shown]
        while self._shown:
            self._hide()
        depth, self._depth, self._owner = self._depth, 0, None
        for _ in range(depth):
            self._lock.release()
        return depth, shown

    def take_up(self, depth: int, shown: Sequence[tuple[str, ModuleType]]) -> None:
        for _ in range(depth):
            self._lock.acquire()
        self._depth, self._owner = depth, threading.get_ident()
        for name, module in shown:
            self._shown.append((name, module, sys.modules.get(name)))
            sys.modules[name] = module

    def _hide(self) -> None:
        name, _, before = self._shown.pop()
        if before is not None:
            sys.modules[name] = before
        else:
            sys.modules.pop(name, None)


import_turn = _Turn()
_private: weakref.WeakSet[ModuleType] = weakref.WeakSet()


_HIDING = 1000  # looks at a module that is just being taken out of sys.modules


def public_module(name: str) -> ModuleType | None:
    """The user's own module of that name: what ``sys.modules`` holds when no namespace executes one of its own there.

    Another thread may be doing just that, which does not make it this thread's.
    """
    for _ in range(_HIDING):
        found = sys.modules.get(name)
        if found is None or found not in _private:
            return found
        for shown, _, before in list(import_turn._shown):  # the first of a name stands before all others
            if shown == name:
                return before
    return None  # a private module that put itself there for good


class ImportingMailbox(Mailbox):
    """A mailbox whose baton comes with the turn to import: whoever puts the one down puts both down.

    Both are taken up again in the order baton, turn, and nobody waits for a baton while it has the turn: no deadlock.
    """

    resumes = False

    def __init__(self, *, limit: int, name: str = "shard") -> None:
        super().__init__(limit=limit, name=name)
        self._put_down = threading.local()

    def holds(self) -> bool:
        return import_turn.held() or super().holds()

    def release(self) -> None:
        turn = import_turn.put_down() if import_turn.held() else None
        baton = super().holds()
        self._laid().append((baton, turn))
        if baton:
            super().release()

    def acquire(self) -> None:
        laid = self._laid()
        baton, turn = laid.pop() if laid else (True, None)
        if baton:
            super().acquire()
        if turn is not None:
            import_turn.take_up(*turn)

    def _laid(self) -> list[Any]:
        found: list[Any] | None = getattr(self._put_down, "stack", None)
        if found is None:
            found = self._put_down.stack = []
        return found


class Namespace:
    """The modules of one shard (``component``), or of a stranger to all components (None)."""

    def __init__(self, plan: ShardPlan, component: ComponentName | None, proxies: Proxies) -> None:
        self._root = Path(plan.root)
        self._surfaces = {surface.module: surface for surface in plan.modules if surface.owner != component}
        self._tops = {surface.module.partition(".")[0] for surface in plan.modules}
        self._proxies = proxies
        self._modules: dict[str, ModuleType] = {}
        self._complete: set[str] = set()  # executed to the end: these need no turn
        self._private: dict[str, bool] = {}
        self._builtins = dict(vars(builtins), __import__=self._import)
        self._importlib = _importlib_of(self)

    def __repr__(self) -> str:
        return f"<Namespace of {len(self._modules)} modules below {self._root}>"

    def import_module(self, name: str, package: str | None = None) -> ModuleType:
        """Like ``importlib.import_module``."""
        if name.startswith("."):
            name = importlib.util.resolve_name(name, package)
        if not self._is_private(name):
            return importlib.import_module(name)
        return self._get(name)

    @contextlib.contextmanager
    def visible(self) -> Iterator[None]:
        """Its modules are those of ``sys.modules`` meanwhile: for libraries that look up the annotations of a class there."""
        with import_turn, contextlib.ExitStack() as shown:
            for name in sorted(self._complete):
                shown.enter_context(import_turn.visible(name, self._modules[name]))
            yield

    # -- inside ------------------------------------------------------------------------------------------------

    def _is_private(self, name: str) -> bool:
        top = name.partition(".")[0]
        if top not in self._private:
            base = self._root / top
            self._private[top] = (
                top in self._tops
                or (self._root / f"{top}.py").is_file()
                or (
                    # a folder without __init__.py gives way to any other module of its name
                    base.is_dir() and ((base / "__init__.py").is_file() or _elsewhere(top) is None)
                )
            )
        return self._private[top]

    def _import(
        self, name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> ModuleType:
        if level:
            package = globals.get("__package__") or globals["__name__"].rpartition(".")[0]
            if not package:
                raise ImportError("attempted relative import with no known parent package")
            bits = package.rsplit(".", level - 1)
            if len(bits) < level:
                raise ImportError("attempted relative import beyond top-level package")
            name = f"{bits[0]}.{name}" if name else bits[0]
        if name == "importlib" or name.startswith("importlib."):
            found = builtins.__import__(name, globals, locals, fromlist, 0)
            return self._importlib if found is importlib else found
        if not self._is_private(name):
            return builtins.__import__(name, globals, locals, fromlist, 0)
        module = self._get(name)
        if not fromlist:
            return module if level else self._modules[name.partition(".")[0]]
        if hasattr(module, "__path__"):
            for item in fromlist:
                names = getattr(module, "__all__", ()) if item == "*" else (item,)
                for each in names:
                    if each not in module.__dict__:
                        self._try_submodule(f"{name}.{each}")
        return module

    def _try_submodule(self, name: str) -> None:
        try:
            self._get(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise

    def _get(self, name: str) -> ModuleType:
        if name in self._complete:
            return self._modules[name]
        with import_turn:
            return self._load(name)

    def _load(self, name: str) -> ModuleType:
        found = self._modules.get(name)
        if found is not None:
            return found
        parent, _, leaf = name.rpartition(".")
        above = self._load(parent) if parent else None
        found = self._modules.get(name)  # the parent may have imported it
        if found is not None:
            return found
        found = self._execute(name, above)
        if above is not None:
            setattr(above, leaf, found)
        return found

    def _execute(self, name: str, above: ModuleType | None) -> ModuleType:
        surface = self._surfaces.get(name)
        spec = self._generated(surface) if surface is not None else self._found(name, above)
        if surface is None and isinstance(spec.loader, importlib.machinery.ExtensionFileLoader):
            # compiled code cannot be loaded twice: all shards share it
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            self._modules[name] = module
            self._complete.add(name)
            return module
        module = importlib.util.module_from_spec(spec)
        module.__dict__["__builtins__"] = self._builtins
        _private.add(module)
        self._modules[name] = module
        try:
            with import_turn.visible(name, module):
                if surface is not None:
                    fill(module, surface, self._proxies)
                elif isinstance(spec.loader, importlib.abc.InspectLoader):
                    code = spec.loader.get_code(name)
                    if code is not None:  # None: a package without __init__.py
                        exec(code, module.__dict__)
                # what a module put in its own place is what importing it gives
                module = self._modules[name] = sys.modules.get(name, module)
        except BaseException:
            del self._modules[name]
            raise
        self._complete.add(name)
        return module

    def _generated(self, surface: ModuleSurface) -> importlib.machinery.ModuleSpec:
        path = self._root / surface.path
        spec = importlib.machinery.ModuleSpec(surface.module, None, origin=str(path), is_package=surface.is_package)
        spec.has_location = True
        if surface.is_package:
            spec.submodule_search_locations = [str(path.parent)]
        return spec

    def _found(self, name: str, above: ModuleType | None) -> importlib.machinery.ModuleSpec:
        where = [str(self._root)] if above is None else getattr(above, "__path__", None)
        if where is None:
            raise ModuleNotFoundError(
                f"No module named {name!r}; {name.rpartition('.')[0]!r} is not a package", name=name
            )
        portions: list[str] = []
        for entry in where:
            finder = pkgutil.get_importer(entry)
            spec = finder.find_spec(name) if isinstance(finder, importlib.abc.PathEntryFinder) else None
            if spec is not None and spec.loader is not None:
                return spec
            if spec is not None:
                portions.extend(spec.submodule_search_locations or ())
        if not portions:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = portions
        return spec


def _elsewhere(top: str) -> importlib.machinery.ModuleSpec | None:
    """Another module or package of that name (folders without ``__init__.py`` do not count)."""
    for finder in sys.meta_path:
        spec = finder.find_spec(top, None)
        if spec is not None and spec.loader is not None and spec.origin is not None:
            return spec
    return None


class _Importlib(ModuleType):
    """``importlib`` as private modules see it: ``import_module`` gives them private modules."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib, name)


def _importlib_of(namespace: Namespace) -> ModuleType:
    module = _Importlib("importlib", importlib.__doc__)
    module.import_module = namespace.import_module  # type: ignore[attr-defined]
    return module
