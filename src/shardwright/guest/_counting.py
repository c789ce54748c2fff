"""The first look at a program: how often each of its functions calls each other one, exactly, and what that takes.

``cProfile`` counts in C. Functions are named as analysis names them, ``module:qualname``, by the file of their code. What a
built-in does is work of the function that calls it, and what it calls in turn is that one's call.
"""

from __future__ import annotations

import cProfile
import os
from collections.abc import Mapping
from types import CodeType
from typing import Any

from shardwright.model.profile import of_tests


class Counting:
    """``modules`` are the names of the files that count. One thread is seen: the one that starts it."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        self._modules = {os.path.realpath(path): name for path, name in modules.items()}
        self._names: dict[CodeType, str] = {}
        self._profile = cProfile.Profile(builtins=False)

    def start(self) -> None:
        self._profile.enable()

    def pause(self) -> None:
        """What runs from now on does not count, until ``start``."""
        self._profile.disable()

    def forked(self) -> None:
        self._profile.disable()

    def end(self) -> dict[str, Any]:
        self._profile.disable()
        functions: dict[str, list[float]] = {}
        edges: dict[tuple[str, str], list[float]] = {}
        inside_s = 0.0
        for entry in self._profile.getstats():
            caller = self._name(entry.code)
            if not isinstance(entry.code, str) and (not caller or of_tests(caller)):
                for called in entry.calls or ():
                    callee = self._name(called.code)
                    inside_s += called.totaltime if callee and not of_tests(callee) else 0.0
            if not caller:
                continue
            known = functions.setdefault(caller, [0, 0.0, 0.0])
            known[0] += entry.callcount
            known[1] += entry.totaltime
            known[2] += entry.inlinetime
            for called in entry.calls or ():
                callee = self._name(called.code)
                if callee:
                    edge = edges.setdefault((caller, callee), [0, 0.0])
                    edge[0] += called.callcount
                    edge[1] += called.totaltime
        return {
            "inside_s": inside_s,
            "functions": [[name, *numbers] for name, numbers in sorted(functions.items())],
            "edges": [[caller, callee, *numbers] for (caller, callee), numbers in sorted(edges.items())],
        }

    def _name(self, code: CodeType | str) -> str:
        if isinstance(code, str):
            return ""
        found = self._names.get(code)
        if found is None:
            module = self._modules.get(os.path.realpath(code.co_filename), "")
            found = self._names[code] = f"{module}:{code.co_qualname}" if module else ""
        return found
