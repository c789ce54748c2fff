"""Faces of rooms whose modules are imported when a name of theirs is first used.

A keeper needs three modules of its room, and a guest half of its own: the rest would cost each of them tens of
milliseconds of imports. (The idea is that of PEP 562.)
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["lazily"]


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package that imports the module behind a name at its first use.

    ``homes`` has for each module of the package the names that the face re-exports from it, parted by blanks.
    Raises AttributeError as any module does, for names that are not there.
    """
    home = {name: module for module, names in homes.items() for name in names.split()}

    def found(name: str) -> Any:
        try:
            module = home[name]
        except KeyError:
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name) from None
        value = getattr(importlib.import_module(f"{package}.{module}"), name)
        setattr(sys.modules[package], name, value)  # the next use is as fast as any
        return value

    return found
