"""The second look at a program: at the functions that might be cut, while they run.

Of each, some calls are looked at: how many bytes their arguments and results take, whether those cross at all, and what
the call does to the world outside of its arguments. The first few are run again, beforehand, on copies of the arguments:
if the copy comes to another result, or changes its arguments otherwise, the function is not a function of its arguments.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import sys
import threading
import time
import types
from collections.abc import Sequence
from types import FunctionType
from typing import Any

from shardwright.errors import ShardwrightError
from shardwright.guest._alike import alike
from shardwright.guest._cut_code import Cutting, stub_code
from shardwright.model.cut import CutFunction
from shardwright.model.ids import MethodId
from shardwright.transport.kin import KinCodec
from shardwright.transport.kin import KinPickler as Pickler

_SHADOWED = 4  # calls of each function that are run twice
_LOOKED = 32  # calls of each that are looked at one after the other; then one of _EVERY
_EVERY = 16
_FEW = 0.1  # of the calls looked at may have arguments that do not cross
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
_UNCHANGING = frozenset({
    str, bytes, int, float, bool, tuple, frozenset, types.FunctionType, types.BuiltinFunctionType, types.ModuleType,
    type(None), re.Pattern,
})  # fmt: skip
_OWN_FILES = (sys.prefix, sys.base_prefix, os.path.dirname(os.__file__))


class _Looked:
    """What was seen of one function."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls = self.sampled = self.request_bytes = self.result_bytes = self.shadowed = 0
        self.encode_s = 0.0
        self.unsent = 0
        self.why_unsent = ""
        self.total_s = 0.0  # of all calls, but those within one of its own
        self.inside = False
        self.veto = ""

    def refuse(self, why: str) -> None:
        self.veto = self.veto or why


class Looking:
    """Puts stubs in place that look and call the original."""

    def __init__(self, functions: Sequence[str], modules: Sequence[str]) -> None:
        self._modules = modules
        self._homes = frozenset({"builtins", "collections", "array", *modules})
        wanted = []
        for name in functions:
            module, _, qualname = name.partition(":")
            wanted.append(CutFunction(module, qualname, 0, MethodId(0)))
        self._cutting = Cutting(wanted, [], self._replace, lambda items, number, bind: items)
        self._looked: dict[str, _Looked] = {}
        self._codec = KinCodec()
        self._own = threading.local()
        self._swapped: list[FunctionType] = []
        self.shadow_s = 0.0

    def start(self) -> None:
        self._cutting.install()
        sys.addaudithook(self._heard)

    def forked(self) -> None:
        pass

    def end(self) -> dict[str, Any]:
        for looked in self._looked.values():
            if looked.unsent > _FEW * (looked.sampled + looked.unsent):
                looked.refuse(
                    f"arguments of {looked.unsent} of {looked.sampled + looked.unsent} calls do not cross: {looked.why_unsent}"
                )
        return {
            "shadow_s": self.shadow_s,
            "looked": [
                [
                    item.name,
                    item.calls,
                    item.sampled,
                    item.request_bytes,
                    item.result_bytes,
                    item.encode_s,
                    item.total_s,
                    item.veto,
                ]
                for item in sorted(self._looked.values(), key=lambda item: item.name)
            ],
        }

    def _replace(self, wanted: CutFunction, found: FunctionType) -> None:
        if found in self._swapped:
            return
        looked = self._looked.setdefault(wanted.id, _Looked(wanted.id))
        original = FunctionType(
            found.__code__, found.__globals__, found.__name__, found.__defaults__, found.__closure__
        )
        original.__kwdefaults__ = found.__kwdefaults__
        original.__qualname__ = found.__qualname__
        found.__code__ = stub_code(
            found.__code__, lambda args, kwargs: self._call(looked, original, args, kwargs), "look"
        )
        self._swapped.append(found)

    def _call(self, looked: _Looked, original: FunctionType, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if getattr(self._own, "shadow", False):
            return original(*args, **kwargs)
        looked.calls += 1
        if looked.inside:
            return original(*args, **kwargs)
        if looked.veto or (looked.calls > _LOOKED and looked.calls % _EVERY):
            return self._timed(looked, original, args, kwargs)
        begun_s = time.perf_counter()
        try:
            payload, buffers, memo = self._codec.encode_request((None, args, kwargs or None))
        except (ShardwrightError, RecursionError) as error:
            looked.unsent += 1  # such calls run where they are made
            looked.why_unsent = getattr(error, "message", str(error))
            return self._timed(looked, original, args, kwargs)
        looked.encode_s += time.perf_counter() - begun_s
        looked.request_bytes += len(payload) + sum(map(len, buffers))
        looked.sampled += 1
        expected = None
        if looked.shadowed < _SHADOWED:
            looked.shadowed += 1
            expected = self._shadow(looked, original, payload, buffers)
        stack = self._own.__dict__.setdefault("looked", [])
        stack.append(looked)
        closely = expected is not None and sys.getprofile() is None
        if closely:
            sys.setprofile(self._event)
        try:
            result = self._timed(looked, original, args, kwargs)
        except BaseException as error:
            if closely:
                sys.setprofile(None)
            stack.pop()
            if expected is not None and expected != ("raised", type(error), str(error)):
                looked.refuse(f"run twice it ended in two ways: {expected[0]} and raised {type(error).__name__}")
            raise
        if closely:
            sys.setprofile(None)
        stack.pop()
        self._returned(looked, result, memo, args, kwargs, expected)
        return result

    @staticmethod
    def _timed(looked: _Looked, original: FunctionType, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        looked.inside = True
        begun_s = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            looked.total_s += time.perf_counter() - begun_s
            looked.inside = False

    def _returned(self, looked: _Looked, result: Any, memo: Any, args: Any, kwargs: Any, expected: Any) -> None:
        self._own.shadow = True
        begun_s = time.perf_counter()
        try:
            written, buffers, _ = self._codec.encode_request(result)
        except (ShardwrightError, RecursionError) as error:
            looked.refuse(f"its result does not cross: {getattr(error, 'message', error)}")
            return
        finally:
            self._own.shadow = False
        looked.encode_s += time.perf_counter() - begun_s
        looked.result_bytes += len(written) + sum(map(len, buffers))
        if expected is None:
            return
        if expected[0] == "raised":
            looked.refuse("run twice on equal arguments it raised once")
        elif not alike(expected[1], (args, kwargs, result)):
            looked.refuse("run twice on equal arguments it gave another result or other changes of its arguments")

    def _shadow(self, looked: _Looked, original: FunctionType, payload: Any, buffers: Any) -> Any:
        """What the call comes to on copies of its arguments."""
        self._own.shadow = True
        begun_s = time.perf_counter()
        before = self._state()
        try:
            try:
                (_, args, kwargs), _ = self._codec.decode_request(payload, buffers)
            except ShardwrightError as error:
                looked.refuse(f"its arguments cannot be copied: {error.message}")
                return None
            try:
                result = original(*args, **(kwargs or {}))
            except Exception as error:
                return ("raised", type(error), str(error))
            finally:
                self._compare(looked, before)
            return ("returned", (args, kwargs or {}, result))
        finally:
            self._own.shadow = False
            self.shadow_s += time.perf_counter() - begun_s

    def _state(self) -> dict[tuple[str, str], bytes]:
        """What the modules of the components hold that can change, each with its content."""
        found = {}
        for module in self._modules:
            names = vars(sys.modules[module]) if module in sys.modules else {}
            for name, value in list(names.items()):
                if name.startswith("__") or type(value) in _UNCHANGING:
                    continue
                if isinstance(value, type):
                    if value.__module__ != module:
                        continue
                    held = {key: item for key, item in vars(value).items() if isinstance(item, (list, dict, set))}
                    if not held:
                        continue
                    value = held
                elif type(value).__module__ not in self._homes:
                    continue  # what a library's object keeps for itself, as caches do, shows in results run twice
                out = io.BytesIO()
                with contextlib.suppress(Exception):
                    Pickler(out, 5).dump(value)
                    found[module, name] = out.getvalue()
        return found

    def _compare(self, looked: _Looked, before: dict[tuple[str, str], bytes]) -> None:
        now = self._state()
        for (module, name), content in before.items():
            if now.get((module, name)) != content:
                looked.refuse(f"it changes {module}.{name}")
                return

    # -- effects -------------------------------------------------------------------------------------------------

    def _event(self, frame: Any, event: str, called: Any) -> None:
        if event != "c_call" or frame.f_code.co_filename == __file__:
            return
        name = getattr(called, "__name__", "")
        if name in ("write", "print", "flush") and (
            called is print or getattr(called, "__self__", None) in (sys.stdout, sys.stderr)
        ):
            self._refuse("it writes to the standard output")
        elif name in _CLOCKS:
            owner = getattr(called, "__self__", None)
            module = getattr(called, "__module__", None) or getattr(owner, "__name__", "") or type(owner).__module__
            if module in _CLOCK_MODULES and not (type(owner) is random.Random and owner is not random._inst):
                self._refuse(f"it asks {module}.{name}()")

    def _heard(self, event: str, given: Any) -> None:
        if not getattr(self._own, "looked", None) or getattr(self._own, "shadow", False):
            return
        if event == "open":
            path, _, flags = given
            if isinstance(path, int):
                return
            writes = (
                bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND)) if isinstance(flags, int) else True
            )
            place = os.path.abspath(os.fsdecode(path)) if isinstance(path, (str, bytes, os.PathLike)) else ""
            if not writes and (place.startswith(_OWN_FILES) or place.endswith((".py", ".pyc", ".so")) or _importing()):
                return
            if writes and _importing():
                return
            self._refuse(f"it {'writes' if writes else 'reads'} the file {place}")
        elif event.startswith(_EVENTS) and not (event in _LOOKS and _importing()):
            self._refuse(f"it uses the system: {event}")

    def _refuse(self, why: str) -> None:
        for looked in self._own.looked:
            looked.refuse(why)


def _importing() -> bool:
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
