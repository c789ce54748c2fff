"""Which functions of a package were called directly by which others, while its own test suite ran: a pytest plugin.

    EDGES_PACKAGE=/path/to/site-packages/httpie EDGES_FILE=edges.json PYTHONPATH=tests/support \\
        python -m pytest -p executed_edges ...

An edge is a Python frame of the package whose calling frame is of the package too. Comprehensions belong to the function
around them; a generator or coroutine counts when it starts, with whoever starts it; a module that an import executes and the
body of a class are no callees. Every code object is ``[path below the package, first line, qualified name]``. Code and its
caller are seen by the profile function of every thread, so child processes are left out. Needs Python 3.11 or later.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
from types import CodeType, FrameType

_OPTIMIZED, _SUSPENDABLE = 0x1, 0x20 | 0x80 | 0x200
_FOLDED = frozenset({"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"})
_NOT_CALLED = _FOLDED | {"<module>"}


class Edges:
    """Collects edges from now on, in this thread and in those begun later."""

    def __init__(self, package: str) -> None:
        self._package = package.rstrip("/") + "/"
        self._inside: dict[CodeType, bool] = {}
        self._codes: dict[CodeType, bytes] = {}
        self._seen: set[tuple[CodeType, CodeType]] = set()

    def start(self) -> None:
        threading.setprofile(self._event)
        sys.setprofile(self._event)

    def _is_inside(self, code: CodeType) -> bool:
        known = self._inside.get(code)
        if known is None:
            known = self._inside[code] = code.co_filename.startswith(self._package)
        return known

    def _event(self, frame: FrameType, event: str, argument: object) -> None:
        if event != "call":
            return
        callee = frame.f_code
        if not self._is_inside(callee):
            return
        back = frame.f_back
        if back is None or not self._is_inside(back.f_code) or (back.f_code, callee) in self._seen:
            return
        if callee.co_name in _NOT_CALLED or not callee.co_flags & _OPTIMIZED:
            return
        if callee.co_flags & _SUSPENDABLE:
            code = self._codes.get(callee)
            if code is None:
                code = self._codes[callee] = callee.co_code
            if code[frame.f_lasti + 1] & 3:  # RESUME after a yield or an await, not at the start
                return
        self._seen.add((back.f_code, callee))

    def found(self) -> list[list[list[object]]]:
        """``[[caller, callee], ...]``, sorted."""
        edges = {(self._place(caller), self._place(callee)) for caller, callee in self._seen}
        return [[list(caller), list(callee)] for caller, callee in sorted(edges)]

    def _place(self, code: CodeType) -> tuple[str, int, str]:
        return code.co_filename.removeprefix(self._package), code.co_firstlineno, code.co_qualname


def pytest_configure() -> None:
    """Starts as early as a plugin can."""
    edges = Edges(os.environ["EDGES_PACKAGE"])
    edges.start()

    def write() -> None:
        sys.setprofile(None)
        threading.setprofile(None)
        with open(os.environ["EDGES_FILE"], "w", encoding="utf-8") as file:
            json.dump(edges.found(), file)

    atexit.register(write)
