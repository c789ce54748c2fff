"""Setting a trace function in all threads of this process, from any of them.

``sys.settrace`` speaks for the calling thread alone. The interpreter can do more: a C function may be set for every
thread at once (``PyEval_SetTraceAllThreads``, and before Python 3.12 ``_PyEval_SetTrace`` for one thread after the
other). Ours is called in each thread at that thread's next event; there it sets the Python function for the thread and
for the frames that it is in already. Threads that others wait for are left alone.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from shardwright.guest._frames import is_ours
from shardwright.guest._service import service_of_this_thread

Trace = Callable[[FrameType, str, Any], Any]

_EVENTS = ("call", "exception", "line", "return")
_wanted: Trace | None = None


def trace_all_threads(trace: Trace | None) -> None:
    """From its next event on, each thread traces by that function; it hears of frames that began before as well."""
    global _wanted
    _wanted = trace
    api = ctypes.pythonapi
    address = ctypes.cast(_first_event, ctypes.c_void_p)
    if sys.version_info >= (3, 12):
        everywhere = api.PyEval_SetTraceAllThreads
        everywhere.argtypes, everywhere.restype = (ctypes.c_void_p, ctypes.py_object), None
        everywhere(address, None)
        return
    api.PyInterpreterState_Get.restype = ctypes.c_void_p
    api.PyInterpreterState_ThreadHead.argtypes = (ctypes.c_void_p,)
    api.PyInterpreterState_ThreadHead.restype = ctypes.c_void_p
    api.PyThreadState_Next.argtypes, api.PyThreadState_Next.restype = (ctypes.c_void_p,), ctypes.c_void_p
    one = api._PyEval_SetTrace
    one.argtypes, one.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.py_object), ctypes.c_int
    state = api.PyInterpreterState_ThreadHead(api.PyInterpreterState_Get())
    while state:
        one(state, address, None)
        state = api.PyThreadState_Next(state)


def trace_this_thread(frame: FrameType | None, trace: Trace | None) -> None:
    """The same for the calling thread, whose innermost frame to be traced is ``frame``."""
    while frame is not None:
        if not is_ours(frame.f_code.co_filename):
            frame.f_trace = trace
        frame = frame.f_back
    sys.settrace(trace)


@ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.py_object, ctypes.c_int, ctypes.c_void_p)  # type: ignore[untyped-decorator]
def _first_event(_: int | None, frame: FrameType, what: int, argument: int | None) -> int:
    """Called by the interpreter, in the thread that traces from now on; it may raise nothing."""
    try:
        trace = None if service_of_this_thread() else _wanted
        trace_this_thread(frame, trace)
        if trace is not None and what < len(_EVENTS) and _EVENTS[what] in ("call", "line"):
            local = trace(frame, _EVENTS[what], None)
            if local is not None:
                frame.f_trace = local
    except BaseException:
        sys.settrace(None)
    return 0
