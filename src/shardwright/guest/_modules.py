"""Generated modules: executing the plan's stub source, and finding it on import."""

from __future__ import annotations

import importlib.machinery
import linecache
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from shardwright.errors import CutRefused
from shardwright.guest._stubs import Face, Proxies
from shardwright.model.ids import ComponentName
from shardwright.model.shard import ModuleSurface, ShardPlan

if TYPE_CHECKING:
    from importlib.abc import Loader, MetaPathFinder
else:  # importlib.abc brings importlib.resources: 5 ms of each template's start

    class Loader: ...

    class MetaPathFinder: ...


class GeneratedModule(ModuleType):
    """A module of another component. Setting a name in it would change this shard's copy and nobody else's: refused.

    What the import system sets stays possible: names with two underscores, and submodules.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not _of_import_system(self, name, value):
            raise _refused(self, name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if not _of_import_system(self, name, self.__dict__.get(name)):
            raise _refused(self, name)
        super().__delattr__(name)


def _of_import_system(module: ModuleType, name: str, value: object) -> bool:
    if name.startswith("__"):
        return True
    submodule = sys.modules.get(f"{module.__name__}.{name}")
    return isinstance(value, ModuleType) if submodule is None else submodule is value


def _refused(module: ModuleType, name: str) -> CutRefused:
    face = module.__dict__["__shardwright__"]
    return CutRefused(
        f"{module.__name__}.{name} belongs to component {face.owner}, and cannot be changed from another one",
        remedy=f"give {face.owner} a function that changes it",
    )


def fill(module: ModuleType, surface: ModuleSurface, proxies: Proxies) -> None:
    """Execute the stub source in ``module``; names it does not have are asked of the owner."""
    namespace = module.__dict__
    namespace["__shardwright__"] = Face(proxies, surface, namespace)
    filename = f"<generated {surface.module}>"
    linecache.cache[filename] = (
        len(surface.stub_source), None, surface.stub_source.splitlines(keepends=True), filename,
    )  # fmt: skip
    exec(compile(surface.stub_source, filename, "exec", dont_inherit=True), namespace)
    definition = proxies.plan.definition(surface.owner)
    submodules = {each.module for each in proxies.plan.modules}

    def __getattr__(name: str) -> Any:
        # `from package import submodule` asks for an attribute first; importing then finds it
        if name.startswith("__") or f"{surface.module}.{name}" in submodules:
            raise AttributeError(f"module {surface.module!r} has no attribute {name!r}")
        return proxies.read_module(definition, surface.module, name)

    namespace["__getattr__"] = __getattr__
    if type(module) is ModuleType:
        module.__class__ = GeneratedModule


class GeneratedFinder(MetaPathFinder, Loader):
    """First on ``sys.meta_path`` of a shard: modules that other components own are generated, all others are real."""

    def __init__(self, plan: ShardPlan, component: ComponentName, proxies: Proxies) -> None:
        mine = {component, *(d.cut_of for d in plan.definitions if d.component == component)}
        self._surfaces = {surface.module: surface for surface in plan.modules if surface.owner not in mine}
        self._root = plan.root
        self._proxies = proxies

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        surface = self._surfaces.get(fullname)
        if surface is None:
            return None
        spec = importlib.machinery.ModuleSpec(
            fullname, self, origin=os.path.join(self._root, surface.path), is_package=surface.is_package
        )
        spec.has_location = True
        if surface.is_package:
            spec.submodule_search_locations = [os.path.dirname(os.path.join(self._root, surface.path))]
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        fill(module, self._surfaces[module.__name__], self._proxies)

    def install(self) -> None:
        sys.meta_path.insert(0, self)

    def remove(self) -> None:
        sys.meta_path.remove(self)
