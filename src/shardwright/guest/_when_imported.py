"""Something to do once user code has imported a module, so that a guest need not import it to have done it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.abc import Loader, MetaPathFinder
    from importlib.machinery import ModuleSpec
else:  # importlib.abc brings importlib.resources: 5 ms of each template's start

    class Loader: ...

    class MetaPathFinder: ...


def when_imported(name: str, then: Callable[[], None]) -> Callable[[], None]:
    """Call ``then`` when the module of that absolute ``name`` has been executed; at once, where it is there already.

    On the importing thread, and once: a module that is reloaded is known. Returns what takes it back. For modules that
    something finds by a specification, as all of the standard library are.
    """
    if name in sys.modules:
        then()
        return lambda: None
    finder = _Finder(name, then)
    sys.meta_path.insert(0, finder)
    return finder.remove


class _Finder(MetaPathFinder):
    """Finds what the others find, with a loader that tells when it is done."""

    def __init__(self, name: str, then: Callable[[], None]) -> None:
        self._name = name
        self._then: Callable[[], None] | None = then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        finders = list(sys.meta_path)
        for finder in finders[finders.index(self) + 1 :]:  # those before us were asked
            if (spec := finder.find_spec(fullname, path, target)) is not None:
                if spec.loader is not None:
                    spec.loader = _Telling(spec.loader, self._done)
                return spec
        return None

    def _done(self) -> None:
        """Only of an execution that succeeded: an import that failed may be tried again."""
        self.remove()
        then, self._then = self._then, None
        if then is not None:
            then()

    def remove(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)


class _Telling(Loader):
    """Stands in for a loader until the module is executed: nobody sees it there."""

    def __init__(self, loader: Any, done: Callable[[], None]) -> None:
        self._loader = loader
        self._done = done

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._done()
