"""First on the import path of a program that is measured or verified: takes its part, then lets the rest be as it was.

Python imports ``sitecustomize`` when it starts. What that name meant before is imported afterwards, from where it was.
"""

import importlib.machinery
import importlib.util
import os
import sys

_here = os.path.dirname(os.path.abspath(__file__))


def _take_part() -> None:
    errand = os.environ.get("SHARDWRIGHT_ERRAND", "")
    if not errand:
        return
    sys.path.append(os.environ["SHARDWRIGHT_AT"])
    try:
        from shardwright.guest._errand import begin
    finally:
        sys.path.remove(os.environ["SHARDWRIGHT_AT"])
    begin(errand)


def _as_before() -> None:
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != _here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize")
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


_take_part()
_as_before()
