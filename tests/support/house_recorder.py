"""Which lines of the package run in a process that a test starts: coverage's C tracer, and nothing else of coverage.

To import coverage takes 90 ms, and its database some more, in each of the thousands of processes that a run of the suite
starts; this takes 2 ms. What is recorded lies in files of ``marshal`` that ``merge`` hands to coverage. Imported by a
``.pth`` file at the start of the process, so it imports no more than it must.
"""

from __future__ import annotations

import _imp
import atexit
import marshal
import os
import sys
import threading
import time
from _frozen_importlib_external import ExtensionFileLoader, spec_from_file_location
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

_PREFIX = "recorded."


class Recorder:
    """Records from ``start`` on what runs below ``package``, in all threads, and in forks of this process as well.

    ``save`` writes it below ``folder``: at the end of the process, by ``os._exit`` and SIGTERM too.
    """

    def __init__(self, tracer: str, package: str, folder: str) -> None:
        spec = spec_from_file_location("coverage.tracer", tracer, loader=ExtensionFileLoader("coverage.tracer", tracer))
        assert spec is not None, tracer
        module: Any = _imp.create_dynamic(spec)
        _imp.exec_dynamic(module)
        self._tracer_class = module.CTracer
        self._disposition = module.CFileDisposition
        self._package = package
        self._folder = folder
        self._lines: dict[str, Any] = {}
        self._known: dict[str, Any] = {}
        self._tracers: list[Any] = []  # one that is freed ends the tracing of whichever thread frees it
        self._exit = os._exit

    def start(self) -> None:
        self._trace_thread()
        threading.settrace(self._on_thread)
        atexit.register(self.save)
        os._exit = self._on_exit
        # the signal module is for those who have handlers of their own
        import signal

        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._on_term)

    def save(self) -> None:
        """Write what was recorded so far. A process that forked writes what it had before as well, and so does its fork."""
        recorded = {name: [*lines] for name, lines in [*self._lines.items()]}
        if recorded:
            path = f"{self._folder}/{_PREFIX}{os.getpid()}.{time.monotonic_ns()}"
            try:
                with open(path, "wb") as file:
                    file.write(marshal.dumps(recorded))
            except OSError:
                pass  # no descriptor is left, or the folder is out of sight behind walls

    def _trace_thread(self) -> Any:
        tracer = self._tracer_class()
        tracer.data = self._lines
        # All that a lock would guard happens at once, under the interpreter's own.
        tracer.lock_data = tracer.unlock_data = bool
        tracer.trace_arcs = False
        tracer.should_trace = self._should_trace
        tracer.should_trace_cache = self._known
        tracer.warn = tracer.disable_plugin = tracer.check_include = _nothing
        tracer.concur_id_func = tracer.should_start_context = tracer.switch_context = None
        tracer.file_tracers = {}
        self._tracers.append(tracer)
        return tracer.start()

    def _should_trace(self, name: str, frame: FrameType) -> Any:
        found = self._disposition()
        found.original_filename = found.canonical_filename = found.source_filename = name
        found.trace = name.startswith(self._package)
        found.reason, found.file_tracer, found.has_dynamic_filename = "", None, False
        return found

    def _on_thread(self, frame: FrameType, event: str, arg: Any) -> Any:
        sys.settrace(None)
        trace = self._trace_thread()
        return trace(frame, event, arg)

    def _on_exit(self, status: int) -> NoReturn:
        self.save()
        self._exit(status)

    def _on_term(self, signum: int, frame: FrameType | None) -> None:
        import signal

        self.save()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)


def _nothing(*_: object) -> bool:
    return False


def merge(data_file: str) -> int:
    """Hand what processes recorded beside ``data_file`` to coverage, which combines it; returns how many there were."""
    from coverage import CoverageData  # not where only lines are recorded

    folder = os.path.dirname(data_file)
    found: dict[str, set[int]] = {}
    paths = [os.path.join(folder, name) for name in os.listdir(folder) if name.startswith(_PREFIX)]
    for path in paths:
        with open(path, "rb") as file:
            raw = file.read()
        try:
            recorded = marshal.loads(raw)
        except (EOFError, ValueError):
            continue  # killed while it wrote
        for name, lines in recorded.items():
            found.setdefault(name, set()).update(lines)
    if paths:
        data = CoverageData(basename=data_file, suffix="recorded")
        data.add_lines(found)
        data.write()
    return len(paths)
