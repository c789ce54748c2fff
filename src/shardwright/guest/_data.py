"""Classes of modules that this component's own code does not import: their data, and none of their code.

Whoever sends a value chooses its class, and so would choose what runs here when it is hashed, compared or shown. So code of
another component runs only where the component's own code asks for it by importing its module.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from shardwright.errors import CutRefused
from shardwright.guest._stubs import Face, Proxies
from shardwright.model.ids import ComponentName
from shardwright.model.shard import ModuleSurface, ShardPlan
from shardwright.transport import text_that_came

OF_NODE = "the node"
_PROBED = ("__getattr__", "__getattribute__")


class DataModules:
    """The modules of data that one shard has; ``find`` gives classes by ``module:Qualname``, whatever they are."""

    def __init__(
        self, plan: ShardPlan, component: ComponentName | None, proxies: Proxies, find: Callable[[str], Any]
    ) -> None:
        """``component`` None: of the node, which runs no code of the application."""
        knows = frozenset(plan.definition(component).knows) if component is not None else frozenset()
        self._surfaces = {s.module: s for s in plan.modules if s.owner != component and s.module not in knows}
        if component is None:
            nobody = ComponentName("")
            self._surfaces |= {
                module: ModuleSurface(module, nobody, "", False, "", "", source) for module, source in plan.common_data
            }
        self._component = component or OF_NODE
        self._proxies = proxies
        self._find = find
        self._made: dict[str, ModuleType] = {}
        self._mutex = threading.RLock()

    def get(self, name: str) -> ModuleType | None:
        """The module of data; None for those whose code may run here."""
        surface = self._surfaces.get(name)
        if surface is None:
            return None
        with self._mutex:
            made = self._made.get(name)
            if made is None:
                made = self._made[name] = self._make(surface)
            return made

    def _make(self, surface: ModuleSurface) -> ModuleType:
        made = ModuleType(surface.module)
        namespace = made.__dict__
        namespace["__shardwright__"] = _DataFace(self._proxies, surface, namespace, self._component, self._find)
        code = compile(surface.data_source, f"<data of {surface.module}>", "exec", dont_inherit=True)
        exec(code, namespace)
        return made


class Hidden:
    """In place of a class that cannot be shown as data."""

    def __init__(self, message: str) -> None:
        self.message = message


class _DataFace(Face):
    """``__shardwright__`` in a module of data."""

    def __init__(
        self,
        proxies: Proxies,
        surface: ModuleSurface,
        namespace: dict[str, Any],
        component: str,
        find: Callable[[str], Any],
    ) -> None:
        if surface.owner:
            super().__init__(proxies, surface, namespace)
        else:
            self._surface = surface
        self._component = component
        self._find = find

    @property
    def owner(self) -> str:
        return self._surface.owner or "the application"

    def cls(self, name: str) -> Any:
        """A class that another derives from."""
        return self._find(name)

    def hidden(self, qualname: str, why: str) -> Hidden:
        return Hidden(
            f"{self._surface.module}.{qualname} is a class of {self.owner}, whose code does not run in {self._component}, "
            f"and cannot be shown there as data alone: {why}. {self._remedy}"
        )

    def code(self, qualname: str) -> Any:
        """In place of a function, property or computed value of a class."""
        return _Code(self._refusal(qualname), qualname.rpartition(".")[2])

    def absent(self, qualname: str) -> Callable[[], NoReturn]:
        """In place of a default that is computed."""
        refusal = self._refusal(qualname)

        def default() -> NoReturn:
            raise refusal()

        return default

    @staticmethod
    def exception__str__(error: BaseException) -> str:
        text = text_that_came(error)
        return BaseException.__str__(error) if text is None else text

    exception__repr__ = staticmethod(BaseException.__repr__)

    @property
    def _remedy(self) -> str:
        module = self._surface.module
        if self._component == OF_NODE:
            return "return plain data"
        return f"import {module} in {self._component}, or define the class in a module that no component owns"

    def _refusal(self, qualname: str) -> Callable[[], CutRefused]:
        message = f"{self._surface.module}.{qualname} is code of {self.owner}, and does not run in {self._component}"
        return lambda: CutRefused(message, remedy=self._remedy)


class _Code:
    """Refuses to be called, read or set."""

    def __init__(self, refusal: Callable[[], CutRefused], name: str) -> None:
        self._refusal = refusal
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None or (self._name.startswith("__") and self._name.endswith("__")):
            return self
        held = getattr(instance, "__dict__", {})
        if self._name in held:  # computed where the code is, and kept
            return held[self._name]
        raise self._refusal()

    def __set__(self, instance: object, value: object) -> None:
        raise self._refusal()

    def __call__(self, *args: object, **kwargs: object) -> Any:
        if self._name in _PROBED and args and str(args[-1]).startswith("__"):
            raise AttributeError(args[-1])  # what libraries ask of anything
        raise self._refusal()
