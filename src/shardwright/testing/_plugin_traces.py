"""Tracebacks of failed tests: the test's frames and the shards', without ours between them."""

from __future__ import annotations

from types import TracebackType

import pytest

import shardwright.errors

_OURS = str(shardwright.errors.__file__).removesuffix("errors.py")


def tidy(excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    """Leave our frames out of an exception and of those that led to it; an error with no others keeps all."""
    kept = _without_ours(excinfo.tb)
    if kept is not None:
        excinfo.traceback = type(excinfo.traceback)(kept)  # what pytest shows; excinfo.tb stays for debuggers
    seen: set[int] = set()
    todo: list[BaseException | None] = [excinfo.value]
    while todo:
        error = todo.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        error.__traceback__ = _without_ours(error.__traceback__) or error.__traceback__
        todo += [error.__cause__, error.__context__]


def _without_ours(trace: TracebackType | None) -> TracebackType | None:
    frames = []
    while trace is not None:
        filename = trace.tb_frame.f_code.co_filename
        if not _ours(filename):
            frames.append(trace)
        trace = trace.tb_next
    kept: TracebackType | None = None
    for frame in reversed(frames):
        kept = TracebackType(kept, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return kept


def _ours(filename: str) -> bool:
    return filename.startswith((_OURS, "<call to "))
