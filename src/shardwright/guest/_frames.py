"""Tracebacks as the user's program would show them: our own frames between the user's are left out."""

from __future__ import annotations

import os
from types import TracebackType

from shardwright import errors

STUB = "<call to "  # so begin the file names of proxies
_OURS = os.path.dirname(os.path.abspath(errors.__file__)) + os.sep


def beyond(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from its first frame that is not ours: the callee's, where there is one."""
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith((_OURS, STUB)):
        trace = trace.tb_next
    return trace


def is_ours(filename: str) -> bool:
    """Whether code of that file is Shardwright's."""
    return filename.startswith(_OURS)
