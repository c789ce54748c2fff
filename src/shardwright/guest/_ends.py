"""The end of a program as Python itself would make it: what it prints to standard error, and the exit status."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from typing import TextIO

from shardwright.guest._frames import STUB, is_ours

EXIT_UNFLUSHED = 120  # Python's, when standard streams cannot be flushed at exit


def exit_of(code: object) -> tuple[int, str]:
    """Exit status and text for ``sys.exit(code)``: what is neither None nor a number is printed, and means failure."""
    if code is None:
        return 0, ""
    if isinstance(code, int):
        return code & 0xFF, ""
    try:
        return 1, f"{code}\n"
    except Exception:  # of the user's __str__; Python says nothing either
        return 1, ""


def uncaught(error: BaseException) -> str:
    """The traceback of an exception that nobody caught, without our own frames between the user's, also in its causes."""
    shown = traceback.TracebackException.from_exception(error, compact=True)
    left = [shown]
    while left:
        one = left.pop()
        kept = [frame for frame in one.stack if not (is_ours(frame.filename) or frame.filename.startswith(STUB))]
        one.stack = traceback.StackSummary.from_list(kept)
        left += [other for other in (one.__cause__, one.__context__, *(one.exceptions or ())) if other is not None]
    return "".join(shown.format())


def flush_at_exit() -> tuple[int, str]:
    """Flush the standard streams as Python does at exit: its status, 0 when all went well, and what it prints."""
    status, text = 0, ""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:  # None: the descriptor was closed when Python began
                stream.flush()
        except (OSError, ValueError) as failed:
            status = EXIT_UNFLUSHED
            if stream is sys.stdout:
                which = "on flushing sys.stdout:" if sys.version_info >= (3, 13) else f"in: {stream!r}"
                text = f"Exception ignored {which}\n{type(failed).__name__}: {failed}\n"
            _drop_rest(stream)
    return status, text


def _drop_rest(stream: TextIO) -> None:
    """What could not be written is not tried again when the process ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.dup2(nowhere, stream.fileno())
            stream.flush()
        finally:
            os.close(nowhere)
