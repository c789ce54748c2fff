"""How functions, classes, modules and sentinels are pickled within a trust domain: by name."""

from __future__ import annotations

import importlib
import pickle
import sys
import types
from typing import Any

from shardwright.transport.codec._kin_code import reduced
from shardwright.transport.codec._kin_named import is_single, named, reached, sentinel


class KinPickler(pickle.Pickler):
    """Functions, classes, modules and sentinels by name."""

    def reducer_override(self, obj: Any) -> Any:
        cls = type(obj)
        if cls is object:
            return sentinel(obj)
        if cls is types.ModuleType:
            return importlib.import_module, (obj.__name__,)
        if (cls is types.FunctionType or isinstance(obj, type)) and obj.__module__ == "__main__":
            raise pickle.PicklingError(f"{obj.__qualname__} is of the program's own __main__")
        if is_single(obj):
            path = named(obj)
            if path is None:
                raise pickle.PicklingError(f"a {cls.__name__} that no module leads to is the same nowhere else")
            return reached, path
        if cls is types.FunctionType and ("<" in obj.__qualname__ or _at(obj.__module__, obj.__qualname__) is not obj):
            return reduced(obj)
        return NotImplemented


def _at(module: str, qualname: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found
