"""Importing a component's code, and forking shards from the process that did.

``os.fork`` is used on purpose: libc's and Python's at-fork handlers must run, or a child that had imported numpy hangs.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct

from shardwright.errors import ChannelClosed
from shardwright.guest._control import ControlSocket
from shardwright.guest._control_messages import Ended, Failed, Fork, Forked, Ready, Stop
from shardwright.guest._fresh import SeedWatch, hold_lifeline, refresh
from shardwright.guest._modules import GeneratedFinder
from shardwright.guest._runtime import Runtime

if TYPE_CHECKING:
    from shardwright.guest._walls import Fence  # loads ctypes, which few guests need

_KNOWN_POOLS = ("numpy", "scipy")  # their thread pools have at-fork handlers
# signal.signal as the interpreter has it: what wraps it makes an enumeration of a handler that is none, and fails at it
_set_handler: Callable[[int, int], object] = getattr(signal.signal, "__wrapped__", signal.signal)
_SIGCHLD, _DEFAULT = int(signal.SIGCHLD), int(signal.SIG_DFL)


class Imported(Struct, frozen=True):
    """What importing did. ``reason`` says why shards cannot be forked from here; empty when they can."""

    import_s: float
    seeds: SeedWatch
    reason: str


class ImportFailed(Exception):
    """Carries the user's own traceback as text."""

    def __init__(self, message: str, user_traceback: str) -> None:
        super().__init__(message)
        self.user_traceback = user_traceback


def import_component(runtime: Runtime) -> Imported:
    """Import the component's primary module, then what else holds its entry points.

    Raises ImportFailed when the primary module does not import (other modules may fail: their calls then will).
    """
    before = Side.look()
    begun_s = time.perf_counter()
    with SeedWatch(runtime.plan.root) as seeds:
        import_modules(runtime)
    return Imported(time.perf_counter() - begun_s, seeds, runtime.unbound.refused or before.changed(Side.look()))


def import_modules(runtime: Runtime) -> None:
    """What ``import_component`` imports, and how it fails."""
    primary = runtime.definition.code.primary
    if primary:
        _import(primary, runtime)
    for module in sorted({entry.module for entry in runtime.definition.entry_points} - {primary}):
        with contextlib.suppress(ImportFailed):
            _import(module, runtime)


def _import(module: str, runtime: Runtime) -> None:
    process = os.getpid()
    try:
        runtime.import_module(module)
        _only(process, module)
    except BaseException as error:  # a component that calls sys.exit() while imported must be told of, not obeyed
        _only(process, module)
        if runtime.unbound.refused:
            raise ImportFailed(f"importing {module}: {runtime.unbound.refused}", "") from None
        raise ImportFailed(
            f"importing {module} raised {type(error).__name__}: {_words(error)}",
            user_traceback(error, runtime.plan.root),
        ) from None


def _only(process: int, module: str) -> None:
    """A process that the import forked, and that comes back here, ends: one alone may speak for the shard."""
    if os.getpid() != process:
        os.write(
            2, f"a process that {module} forked while it was imported returned from the import: it ends\n".encode()
        )
        os._exit(0)


def _words(error: BaseException) -> str:
    try:
        return str(error)[:2000]
    except Exception as second:
        return f"(its str() raised {type(second).__name__})"


def user_traceback(error: BaseException, root: str) -> str:
    """The traceback without the frames that led to the user's first one, and without ours between theirs."""
    told: list[str] = []
    seen: set[int] = set()
    link = ""
    while True:
        seen.add(id(error))
        told.insert(0, _own_traceback(error, root) + link)
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is None or id(cause) in seen:
            return "".join(told)
        link = "\nThe exception above led to this one:\n\n"
        error = cause


def _own_traceback(error: BaseException, root: str) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    first = next((i for i, frame in enumerate(frames) if frame.filename.startswith(root.rstrip("/") + "/")), None)
    skip = first if first is not None else len(frames)
    theirs = [frame for frame in frames[skip:] if "/shardwright/guest/" not in frame.filename]
    try:
        last = traceback.format_exception_only(error)
    except Exception:
        last = [f"{type(error).__name__}\n"]
    return "".join(["Traceback (most recent call last):\n", *traceback.format_list(theirs), *last])


class Side(Struct, frozen=True):
    """What an import may leave behind that a fork would not carry over."""

    python_threads: int
    kernel_threads: int
    children: frozenset[str]

    @classmethod
    def look(cls) -> Side:
        kernel, children = 1, set()
        with contextlib.suppress(OSError):
            names = os.listdir("/proc/self/task")
            kernel = len(names)
            for name in names:
                with contextlib.suppress(OSError):
                    children.update(_text(f"/proc/self/task/{name}/children").split())
        return cls(threading.active_count(), kernel, frozenset(children))

    def changed(self, after: Side) -> str:
        """Why a fork would lose something; empty when it would not."""
        if after.python_threads > self.python_threads:
            names = ", ".join(t.name for t in threading.enumerate() if t is not threading.main_thread())
            return f"importing starts threads ({names})"
        if after.children - self.children:
            return "importing starts processes"
        if "libcuda.so" in _maps():
            return "importing initialises CUDA"
        if after.kernel_threads > self.kernel_threads and not any(name in sys.modules for name in _KNOWN_POOLS):
            return "importing starts native threads"
        return ""


def _maps() -> str:
    try:
        return _text("/proc/self/maps")
    except OSError:
        return ""


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def prepare_imports(runtime: Runtime, paths: tuple[str, ...]) -> None:
    """The component's import path and generated modules."""
    sys.path[:0] = [path for path in paths if path not in sys.path]
    GeneratedFinder(runtime.plan, runtime.component, runtime.proxies).install()
    if runtime.cuts:
        runtime.cuts.install()


class ForkServer:
    """The template's loop: fork a shard for each Fork message, reap, end with the node."""

    def __init__(self, control: ControlSocket, imported: Imported, lifeline: int, fence: Fence | None = None) -> None:
        self._control = control
        self._imported = imported
        self._lifeline = lifeline
        self._fence = fence
        self._children: dict[int, str] = {}

    def run(self) -> int | None:
        """Returns a descriptor in a forked child (its control socket), None in the template when it is to end."""
        # native pools with at-fork handlers are the threads that os.fork would warn of
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"shardwright\.guest\._template$")
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            ready, _, _ = select.select([self._control.fileno(), wake_read], [], [])
            if wake_read in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake_read, 4096)
                self._reap()
            if self._control.fileno() not in ready:
                continue
            try:
                message, descriptors = self._control.receive()
            except ChannelClosed:
                return None
            if isinstance(message, Stop):
                return None
            if not isinstance(message, Fork):
                for descriptor in descriptors:
                    os.close(descriptor)
                continue
            try:
                pid = self._fork()
            except OSError as error:
                for descriptor in descriptors:
                    os.close(descriptor)
                self._control.send(Forked(message.shard, f"fork failed: {error}"))
                continue
            if pid == 0:  # whatever is touched from here on is a page that the fork has for itself
                signal.set_wakeup_fd(-1)
                _set_handler(_SIGCHLD, _DEFAULT)
                os.close(wake_read)
                os.close(wake_write)
                self._control.close()
                self._become_shard(descriptors[1])
                return descriptors[0]
            self._children[pid] = message.shard
            for descriptor in descriptors:  # the fork says that it is there
                os.close(descriptor)

    def _fork(self) -> int:
        fence = self._fence
        if fence is None:
            return os.fork()
        fence.before_fork()
        try:
            pid = os.fork()
        except OSError:
            fence.after_fork()
            raise
        if pid:
            fence.after_fork()
        return pid

    def _become_shard(self, lifeline: int) -> None:
        os.setsid()
        os.close(self._lifeline)
        self._lifeline = lifeline
        hold_lifeline(lifeline)
        refresh(self._imported.seeds)

    def _reap(self) -> None:
        for pid in list(self._children):
            with contextlib.suppress(ChildProcessError):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended == pid:
                    self._control.send(Ended(self._children.pop(pid), os.waitstatus_to_exitcode(status)))


def announce(control: ControlSocket, imported: Imported | ImportFailed) -> None:
    if isinstance(imported, ImportFailed):
        control.send(Failed(str(imported)[:4000], imported.user_traceback[-60_000:]))
    else:
        control.send(Ready(imported.import_s, not imported.reason, imported.reason))
