"""What a call does to the world outside of its arguments, as hooks of the interpreter hear it."""

from __future__ import annotations

import os
import random
import sys
from types import CodeType
from typing import Any

_CLOCKS = frozenset({
    "time", "monotonic", "perf_counter", "time_ns", "monotonic_ns", "perf_counter_ns", "process_time", "sleep", "urandom",
    "getpid", "random", "getrandbits", "gettimeofday", "localtime", "gmtime", "token_bytes",
})  # fmt: skip
_CLOCK_MODULES = frozenset({"time", "posix", "_random", "random"})
_EVENTS = (
    "subprocess.", "socket.", "os.", "shutil.", "sqlite3.", "tempfile.", "signal.", "pty.", "urllib.", "http.", "ftplib.",
    "fcntl.", "mmap.", "syslog.", "webbrowser.",
)  # fmt: skip
_LOOKS = frozenset({"os.listdir", "os.scandir", "os.walk", "os.fwalk"})
_OWN_FILES = (sys.prefix, sys.base_prefix, os.path.dirname(os.__file__))
_OS_FILE = os.__file__
_LOGGING = os.path.join(os.path.dirname(os.__file__), "logging", "__init__.py")


def of_call(called: Any) -> str:
    """What a call of C code means for the world, in words; empty for nothing."""
    name = getattr(called, "__name__", "")
    owner = getattr(called, "__self__", None)
    if name in ("write", "print", "flush"):
        return "it writes to the standard output" if called is print or owner in (sys.stdout, sys.stderr) else ""
    if name in ("warn", "warn_explicit") and getattr(called, "__module__", "") == "_warnings":
        return "it warns"
    if name in _CLOCKS:
        module = getattr(called, "__module__", None) or getattr(owner, "__name__", "") or type(owner).__module__
        if module in _CLOCK_MODULES and not (type(owner) is random.Random and owner is not random._inst):
            return f"it asks {module}.{name}()"
    return ""


def of_code(code: CodeType) -> str:
    """What running code of the standard library means for the world."""
    if code.co_filename == _OS_FILE and code.co_qualname.startswith("_Environ."):
        return "it uses the environment"
    if code.co_filename == _LOGGING and code.co_qualname == "Logger.handle":
        return "it logs"
    return ""


def of_event(event: str, given: Any) -> str:
    """What an audit event means for the world."""
    if event == "open":
        path, _, flags = given
        if isinstance(path, int):
            return ""
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND)) if isinstance(flags, int) else True
        place = os.path.abspath(os.fsdecode(path)) if isinstance(path, (str, bytes, os.PathLike)) else ""
        if not writes and (place.startswith(_OWN_FILES) or place.endswith((".py", ".pyc", ".so")) or importing()):
            return ""
        if writes and importing():
            return ""
        return f"it {'writes' if writes else 'reads'} the file {place}"
    if event.startswith(_EVENTS) and not (event in _LOOKS and importing()):
        return f"it uses the system: {event}"
    return ""


def importing() -> bool:
    """Whether code is being imported on this thread."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
