"""The mark on threads that others wait for: the hub's, the control thread, the node's loop, and whoever reads just now.

User code may come to run on them unasked, as a ``__del__`` that the garbage collector runs wherever it happens to run.
If it called another shard there, the thread that should bring the reply would wait for it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Protocol


class Reads(Protocol):
    """Where threads read."""

    @property
    def reader(self) -> int:
        """The identity of the one that does so now."""
        ...


class _Mark(threading.local):
    work = ""


class _Reads(threading.local):
    """``for_others``: this thread reads every channel just now (see ``_hub``)."""

    for_others = False


_mark = _Mark()
reads = _Reads()
_services: dict[int, tuple[threading.Thread, str]] = {}


def serves(work: str) -> None:
    """From now on the calling thread does ``work``, for which others wait; it must never wait for another shard."""
    _mark.work = work
    for ident, (thread, _) in list(_services.items()):
        if not thread.is_alive():
            _services.pop(ident, None)
    _services[threading.get_ident()] = (threading.current_thread(), work)


def service_of_this_thread() -> str:
    """What the calling thread does for others, as long as it lives; empty for a thread that may wait."""
    return _mark.work


def service_now(desk: Reads | None = None) -> str:
    """The same, and also for a thread that does so for a moment only; ``desk``: where it may do so in C."""
    if reads.for_others or (desk is not None and desk.reader == threading.get_ident()):
        return "the reading of every channel"
    return _mark.work


def services() -> Mapping[int, str]:
    """What each such thread does, by its identity."""
    return {ident: work for ident, (thread, work) in list(_services.items()) if thread.is_alive()}
