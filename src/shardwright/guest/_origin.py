"""Which trace a line, a record or a thread belongs to.

Calls carry their trace in the context of their thread or task, and tasks and ``asyncio.to_thread`` copy that. A plain
thread begins with an empty context: here it remembers who began it, for its lines and its calls, as long as it runs.
Threads of pools work for many, so what they do is tagged by the context alone; who wants more submits
``contextvars.copy_context().run``.
"""

from __future__ import annotations

import functools
import sys
import threading
from typing import TYPE_CHECKING, Any

from shardwright.guest._context import NOWHERE, CallContext, current_call
from shardwright.guest._when_imported import when_imported
from shardwright.model.ids import NO_SESSION, SessionNumber
from shardwright.telemetry import current_trace

if TYPE_CHECKING:
    import logging

_ORIGIN = "_shardwright_origin"
NO_TRACE = b"\0" * 16


def origin() -> CallContext:
    """The context of the call that this thread, or who began it, works for; NOWHERE when none is known."""
    context = current_call.get()
    if context is NOWHERE:
        context = threading.current_thread().__dict__.get(_ORIGIN, NOWHERE)
    return context


def tag_of_this_thread() -> tuple[SessionNumber, str]:
    """Session and trace (hexadecimal) of what runs here; 0 and empty where there are none."""
    context = origin()
    if context.trace_id != NO_TRACE:
        return context.session, context.trace_id.hex()
    trace = current_trace()
    return context.session or NO_SESSION, trace.trace_id.hex() if trace is not None else ""


def remember_origins() -> None:
    """From now on threads of this process know who began them. To be called once, in a process that is a shard's own."""
    start = threading.Thread.start
    if getattr(start, "__wrapped__", None) is not None:
        return

    @functools.wraps(start)
    def remembering(self: threading.Thread) -> None:
        context = origin()
        if context is not NOWHERE and not _is_of_a_pool(self):
            self.__dict__[_ORIGIN] = context
        start(self)

    threading.Thread.start = remembering  # type: ignore[method-assign]


def _is_of_a_pool(thread: threading.Thread) -> bool:
    pools = sys.modules.get("concurrent.futures.thread")
    return pools is not None and getattr(thread, "_target", None) is getattr(pools, "_worker", pools)


def tag_records() -> None:
    """From now on log records have the attribute ``shardwright_trace``, for formatters that want it; no text changes."""
    when_imported("logging", _tag_records)


def _tag_records() -> None:
    import logging

    make = logging.getLogRecordFactory()

    def tagged(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.__dict__.setdefault("shardwright_trace", tag_of_this_thread()[1])
        return record

    logging.setLogRecordFactory(tagged)
