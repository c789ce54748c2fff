"""Private modules: an application's code once per shard inside one process.

``--inproc`` runs every shard in one interpreter, and the node's own client needs the application's data classes without
importing the application. Both get a namespace: modules below the import root are loaded into it, privately, real or
generated, while everything else comes from ``sys.modules`` as usual. It works by the ``__import__`` that the builtins of the
private modules hold; code that imports through ``importlib`` escapes it and is told so in the documentation.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import importlib.machinery
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from shardwright.guest._modules import fill
from shardwright.guest._stubs import Proxies
from shardwright.model.ids import ComponentName
from shardwright.model.shard import ShardPlan

_loading = threading.RLock()  # modules are visible in sys.modules while they execute, one namespace at a time


class Namespace:
    """The modules of one shard (``component``), or of a stranger to all components (None)."""

    def __init__(self, plan: ShardPlan, component: ComponentName | None, proxies: Proxies) -> None:
        self._root = Path(plan.root)
        self._surfaces = {surface.module: surface for surface in plan.modules if surface.owner != component}
        self._proxies = proxies
        self._modules: dict[str, ModuleType] = {}
        self._private: dict[str, bool] = {}
        self._builtins = dict(vars(builtins), __import__=self._import)

    def __repr__(self) -> str:
        return f"<Namespace of {len(self._modules)} modules below {self._root}>"

    def import_module(self, name: str) -> ModuleType:
        """Like ``importlib.import_module``."""
        if not self._is_private(name):
            return importlib.import_module(name)
        with _loading:
            return self._load(name)

    # -- inside ------------------------------------------------------------------------------------------------

    def _is_private(self, name: str) -> bool:
        top = name.partition(".")[0]
        if top not in self._private:
            self._private[top] = (self._root / f"{top}.py").is_file() or (self._root / top).is_dir()
        return self._private[top]

    def _import(
        self, name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> ModuleType:
        if level:
            package = globals.get("__package__") or globals["__name__"].rpartition(".")[0]
            for _ in range(level - 1):
                package = package.rpartition(".")[0]
            name = f"{package}.{name}" if name else package
        if not self._is_private(name):
            return builtins.__import__(name, globals, locals, fromlist, 0)
        with _loading:
            module = self._load(name)
            if not fromlist:
                return module if level else self._modules[name.partition(".")[0]]
            for item in fromlist:
                names = getattr(module, "__all__", ()) if item == "*" else (item,)
                for each in names:
                    if each not in module.__dict__ and hasattr(module, "__path__"):
                        with contextlib.suppress(ModuleNotFoundError):
                            self._load(f"{name}.{each}")
            return module

    def _load(self, name: str) -> ModuleType:
        found = self._modules.get(name)
        if found is not None:
            return found
        parent, _, leaf = name.rpartition(".")
        above = self._load(parent) if parent else None
        found = self._modules.get(name)  # the parent may have imported it
        if found is None:
            found = self._execute(name)
        if above is not None:
            setattr(above, leaf, found)
        return found

    def _execute(self, name: str) -> ModuleType:
        surface = self._surfaces.get(name)
        base = self._root.joinpath(*name.split("."))
        package = base / "__init__.py"
        path = package if package.is_file() else base.with_suffix(".py")
        if surface is None and not path.is_file() and not base.is_dir():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        module = ModuleType(name)
        is_package = package.is_file() or base.is_dir()
        module.__file__ = str(path)
        module.__package__ = name if is_package else name.rpartition(".")[0]
        spec = importlib.machinery.ModuleSpec(name, None, origin=str(path), is_package=is_package)
        module.__spec__ = spec
        if is_package:
            module.__path__ = [str(base)]
            spec.submodule_search_locations = [str(base)]
        module.__dict__["__builtins__"] = self._builtins
        self._modules[name] = module
        try:
            with _visible(name, module):
                if surface is not None:
                    fill(module, surface, self._proxies)
                elif path.is_file():
                    exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)
        except BaseException:
            del self._modules[name]
            raise
        return module


@contextlib.contextmanager
def _visible(name: str, module: ModuleType) -> Iterator[None]:
    """Decorators such as ``dataclass`` look their module up in ``sys.modules``."""
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        yield
    finally:
        if before is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = before
