"""Which lines of the package run in a process of the suite: its modules are loaded from code that marks them.

Imported by a ``.pth`` file at the start of every process, so it imports no more than it must: some 2 ms. What is recorded
lies in files that ``house_coverage`` hands to coverage.
"""

from __future__ import annotations

import atexit
import builtins
import marshal
import os
import sys
import time
from _frozen_importlib_external import (
    EXTENSION_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    FileLoader,
    SourceFileLoader,
    SourceLoader,
)
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import CodeType, FrameType
    from typing import NoReturn

PREFIX = "recorded."


class Recorder:
    """Records from ``start`` on what runs below ``package``, in all threads, and in forks of this process as well.

    ``save`` writes it below ``folder``: at the end of the process, by ``os._exit`` and SIGTERM too.
    """

    def __init__(self, package: str, folder: str, lines: str) -> None:
        self._package = package
        self._parent = os.path.dirname(package.rstrip("/"))
        self._folder = folder
        self._hits = bytearray(int(lines))
        self._exit = os._exit

    def start(self) -> None:
        builtins.__hits__ = self._hits  # type: ignore[attr-defined] # house_lines.HITS
        sys.path_hooks.insert(0, self._finder)
        atexit.register(self.save)
        os._exit = self._on_exit
        # the signal module is for those who have handlers of their own
        import signal

        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._on_term)

    def save(self) -> None:
        """Write what was recorded so far. A process that forked writes what it had before as well, and so does its fork."""
        if not any(self._hits):
            return
        path = f"{self._folder}/{PREFIX}{os.getpid()}.{time.monotonic_ns()}"
        try:
            with open(path, "wb") as file:
                file.write(self._hits)
        except OSError:
            pass  # no descriptor is left, or the folder is out of sight behind walls

    def _finder(self, path: str) -> FileFinder:
        """For folders of the package and the one that holds it."""
        if path != self._parent and not f"{path}/".startswith(self._package):
            raise ImportError
        marking = type("Marking", (_Marking,), {"package": self._package, "folder": self._folder})
        return FileFinder(path, (ExtensionFileLoader, EXTENSION_SUFFIXES), (marking, [".py"]))

    def _on_exit(self, status: int) -> NoReturn:
        self.save()
        self._exit(status)

    def _on_term(self, signum: int, frame: FrameType | None) -> None:
        import signal

        self.save()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)


class _Marking(FileLoader, SourceLoader):
    """No kind of SourceFileLoader, for pytest would load those itself to rewrite their asserts."""

    package: str
    folder: str

    def get_code(self, fullname: str) -> CodeType | None:
        if self.path.startswith(self.package):
            name = self.path[len(self.package) :].replace("/", ".")
            try:
                with open(f"{self.folder}/code/{name}.code", "rb") as file:
                    return marshal.loads(file.read())  # type: ignore[no-any-return]
            except OSError:
                pass  # out of sight behind walls: it counts nowhere
        return SourceFileLoader(fullname, self.path).get_code(fullname)
