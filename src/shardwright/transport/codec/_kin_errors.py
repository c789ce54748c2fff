"""Exceptions between a component and what was cut out of it: as they are made of, and without calling their class.

Type, arguments, attributes, cause, context, members of a group, and the frames of the traceback.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from shardwright.transport.codec._exceptions import _traceback

__all__ = ["packed", "unpacked"]

_FRAMES = 64


def packed(error: BaseException, above: set[int]) -> Any:
    """What makes an exception, without calling its class."""
    above = {*above, id(error)}
    cause, context = error.__cause__, error.__context__
    members = [packed(item, above) for item in error.exceptions] if isinstance(error, BaseExceptionGroup) else None
    return (
        type(error), error.args, dict(getattr(error, "__dict__", {})), members,
        packed(cause, above) if cause is not None and id(cause) not in above else None,
        packed(context, above) if context is not None and id(context) not in above else None,
        error.__suppress_context__, _frames(error.__traceback__), error.__reduce__()[1] if isinstance(error, OSError) else None,
    )  # fmt: skip


def _frames(trace: TracebackType | None) -> list[tuple[str, str, int]]:
    found: list[tuple[str, str, int]] = []
    while trace is not None and len(found) < _FRAMES:
        code = trace.tb_frame.f_code
        found.append((code.co_filename, code.co_qualname, trace.tb_lineno))
        trace = trace.tb_next
    return found


def unpacked(parts: Any) -> BaseException:
    cls, args, state, members, cause, context, suppress, frames, system = parts
    made: BaseException
    if members is not None:
        made = cls.__new__(cls, args[0], [unpacked(item) for item in members])
    elif system is not None:
        made = cls.__new__(cls, *system)
    else:
        made = cls.__new__(cls, *args)
    if system is None and members is None:
        base = next(item for item in cls.__mro__ if not item.__flags__ & (1 << 9))
        base.__init__(made, *args)
    made.__dict__.update(state)
    made.__cause__ = unpacked(cause) if cause is not None else None
    made.__context__ = unpacked(context) if context is not None else None
    made.__suppress_context__ = suppress
    made.__traceback__ = _traceback(frames)
    return made
